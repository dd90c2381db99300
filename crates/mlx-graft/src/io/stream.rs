//! Rust streams as MLX's readers and writers.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::At;
use crate::containers::Text;
use crate::error::Parked;
use crate::handles::Live;
use crate::{Result, call, sys};

/// Failures of several streams may be on their way at once.
const KEPT: usize = 16;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What streams failed with on threads of MLX, which carry a failure to the evaluation that waits
/// for it as text. The text contains the mark of the stream.
static PARKED: Mutex<VecDeque<(String, Parked)>> = Mutex::new(VecDeque::new());

/// The failure that MLX passed on as `message`, if a stream is where it came from.
pub(crate) fn parked(message: &str) -> Option<Parked> {
    let mut parked = PARKED.lock().unwrap_or_else(PoisonError::into_inner);
    let index = parked.iter().position(|(mark, _)| message.contains(mark.as_str()))?;
    parked.remove(index).map(|(_, failure)| failure)
}

/// What every stream has, whatever its type: its name, and its first failure.
struct Label {
    plain: CString,
    mark: String,
    // Set once, and then what MLX puts into its messages.
    failed: OnceLock<CString>,
}

impl Label {
    fn new(file: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = |text: &str| CString::new(text.replace('\0', "?")).unwrap_or_default();
        Self { plain: text(file), mark: format!("(stream {number}: "), failed: OnceLock::new() }
    }

    fn current(&self) -> &CStr {
        self.failed.get().unwrap_or(&self.plain)
    }

    /// Keeps the first failure: it is the cause, and later ones follow from it.
    fn fail(&self, failure: Parked) {
        let text = format!("{} {}{})", self.plain.to_string_lossy(), self.mark, failure.text());
        let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
        if self.failed.set(text).is_ok() {
            let mut parked = PARKED.lock().unwrap_or_else(PoisonError::into_inner);
            parked.truncate(KEPT - 1);
            parked.push_front((self.mark.clone(), failure));
        }
    }

    /// Runs `f`; an error or a panic of it is kept, and gives `otherwise`.
    fn guarded<T>(&self, otherwise: T, f: impl FnOnce() -> Result<T>) -> T {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => {
                self.fail(Parked::Error(error));
                otherwise
            }
            Err(payload) => {
                self.fail(Parked::Panic(payload));
                otherwise
            }
        }
    }
}

/// What a callback of the C API needs. The label comes first, so that it is found behind a
/// descriptor without knowing the type of the stream.
#[repr(C)]
struct Payload<S> {
    label: Label,
    at: At,
    // MLX reads from several threads.
    stream: Mutex<S>,
}

impl<S> Payload<S> {
    fn new(at: At, stream: S) -> Self {
        Self { label: Label::new(&at.file), at, stream: Mutex::new(stream) }
    }

    fn with<T>(&self, otherwise: T, f: impl FnOnce(&mut S) -> io::Result<T>) -> T {
        // A panic is caught inside, so the lock is never poisoned.
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.label.guarded(otherwise, || f(&mut stream).map_err(self.at.refused()))
    }
}

/// The payload behind a descriptor.
///
/// # Safety
/// `payload` is what [`Reader::new`] or [`with_writer`] gave to MLX for a stream of type `S`, and
/// it still lives.
unsafe fn payload<'a, S>(payload: *mut c_void) -> &'a Payload<S> {
    // SAFETY: the caller says so. Only shared references are made.
    unsafe { &*payload.cast::<Payload<S>>() }
}

extern "C" fn yes(_: *mut c_void) -> bool {
    true
}

extern "C" fn label<S>(desc: *mut c_void) -> *const c_char {
    // SAFETY: `desc` is live in every callback; the label is never changed once it is given out.
    unsafe { payload::<S>(desc) }.label.current().as_ptr()
}

extern "C" fn tell<R: Read + Seek>(desc: *mut c_void) -> usize {
    // SAFETY: `desc` is live in every callback.
    unsafe { payload::<R>(desc) }.with(0, |stream| Ok(stream.stream_position()? as usize))
}

extern "C" fn seek<R: Read + Seek>(desc: *mut c_void, offset: i64, whence: c_int) -> c_int {
    // SAFETY: `desc` is live in every callback.
    unsafe { payload::<R>(desc) }.with(-1, |stream| {
        stream.seek(match whence {
            libc::SEEK_SET => SeekFrom::Start(offset as u64),
            libc::SEEK_CUR => SeekFrom::Current(offset),
            _ => SeekFrom::End(offset),
        })?;
        Ok(0)
    })
}

/// Fills a buffer of MLX's, from the current position or from `offset`.
///
/// # Safety
/// `desc` is live, and `data` has room for `len` bytes.
unsafe fn fill<R: Read + Seek>(
    desc: *mut c_void,
    data: *mut c_char,
    len: usize,
    offset: Option<usize>,
) -> usize {
    if len == 0 {
        return 0;
    }
    // SAFETY: the caller says that `desc` is live.
    let payload = unsafe { payload::<R>(desc) };
    payload.with(0, |stream| {
        // SAFETY: `data` has room for `len` bytes, which are set before a reader sees them, as a
        // reader may look at what it is given to fill.
        let buffer = unsafe {
            data.write_bytes(0, len);
            std::slice::from_raw_parts_mut(data.cast::<u8>(), len)
        };
        if let Some(offset) = offset {
            stream.seek(SeekFrom::Start(offset as u64))?;
        }
        let mut filled = 0;
        while filled < len {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => {
                    let missing = len - filled;
                    let message = format!("ends {missing} bytes before the end of an array");
                    return Err(io::Error::other(payload.at.broken(message)));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    })
}

extern "C" fn read<R: Read + Seek>(desc: *mut c_void, data: *mut c_char, len: usize) -> usize {
    // SAFETY: MLX gives a live descriptor and a buffer of `len` bytes.
    unsafe { fill::<R>(desc, data, len, None) }
}

extern "C" fn read_at_offset<R: Read + Seek>(
    desc: *mut c_void,
    data: *mut c_char,
    len: usize,
    offset: usize,
) -> usize {
    // SAFETY: MLX gives a live descriptor and a buffer of `len` bytes.
    unsafe { fill::<R>(desc, data, len, Some(offset)) }
}

extern "C" fn write_nothing(_: *mut c_void, _: *const c_char, _: usize) -> usize {
    0
}

extern "C" fn free<R>(desc: *mut c_void) {
    // A destructor may run on a thread of MLX, and must not unwind into it; there is nobody to
    // tell of a panic.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: MLX gives back the box made in `Reader::new`, once.
        drop(unsafe { Box::from_raw(desc.cast::<Payload<R>>()) });
    }));
}

/// A stream that MLX reads from, for as long as an array needs it.
pub(super) struct Reader {
    raw: sys::mlx_io_reader,
    _live: Live,
}

impl Reader {
    pub(super) fn new<R: Read + Seek + Send + 'static>(at: &At, stream: R) -> Self {
        call::ready();
        let payload = Box::into_raw(Box::new(Payload::new(at.clone(), stream)));
        let vtable = sys::mlx_io_vtable {
            is_open: Some(yes),
            good: Some(yes),
            tell: Some(tell::<R>),
            seek: Some(seek::<R>),
            read: Some(read::<R>),
            read_at_offset: Some(read_at_offset::<R>),
            write: Some(write_nothing),
            label: Some(label::<R>),
            free: Some(free::<R>),
        };
        // SAFETY: the callbacks match the payload's type. MLX calls them from several threads at
        // once: the payload is `Sync`, as its stream is `Send` and behind a lock. `free` is called
        // once, when the last array that reads from the stream goes, on whichever thread that is.
        let raw = unsafe { sys::mlx_io_reader_new(payload.cast(), vtable) };
        Self { raw, _live: Live::new() }
    }

    /// Runs a C call that reads the header.
    pub(super) fn run<T>(&self, f: impl FnOnce(sys::mlx_io_reader) -> Result<T>) -> Result<T> {
        outcome(f(self.raw), |desc| {
            // SAFETY: the handle is live, and the call fills `desc`.
            unsafe { sys::mlx_io_reader_descriptor(desc, self.raw) }
        })
    }
}

/// The name of the stream and, if it failed, why.
impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, |text| {
            // SAFETY: the handle is live, and `text` the place of a text.
            unsafe { sys::mlx_io_reader_tostring(text, self.raw) }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once; arrays keep the stream itself.
        unsafe { sys::mlx_io_reader_free(self.raw) };
    }
}

extern "C" fn write<W: Write>(desc: *mut c_void, data: *const c_char, len: usize) -> usize {
    // SAFETY: `desc` is live in every callback.
    unsafe { payload::<&mut W>(desc) }.with(0, |stream| {
        // SAFETY: MLX gives `len` readable bytes for the length of the call.
        stream.write_all(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })?;
        Ok(len)
    })
}

extern "C" fn tell_nothing(_: *mut c_void) -> usize {
    0
}

extern "C" fn seek_nowhere(_: *mut c_void, _: i64, _: c_int) -> c_int {
    -1
}

extern "C" fn read_nothing(_: *mut c_void, _: *mut c_char, _: usize) -> usize {
    0
}

extern "C" fn read_nothing_at(_: *mut c_void, _: *mut c_char, _: usize, _: usize) -> usize {
    0
}

extern "C" fn keep(_: *mut c_void) {}

/// A writer of MLX's around a stream that is only borrowed.
struct Writer {
    raw: sys::mlx_io_writer,
    _live: Live,
}

/// As for a reader.
impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, |text| {
            // SAFETY: the handle is live, and `text` the place of a text.
            unsafe { sys::mlx_io_writer_tostring(text, self.raw) }
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        unsafe { sys::mlx_io_writer_free(self.raw) };
    }
}

/// Lets MLX write to `stream` during `save`.
pub(super) fn with_writer<W: Write>(
    at: &At,
    stream: &mut W,
    save: impl FnOnce(sys::mlx_io_writer) -> Result<()>,
) -> Result<()> {
    call::ready();
    let payload = Payload::new(at.clone(), stream);
    let vtable = sys::mlx_io_vtable {
        is_open: Some(yes),
        good: Some(yes),
        tell: Some(tell_nothing),
        seek: Some(seek_nowhere),
        read: Some(read_nothing),
        read_at_offset: Some(read_nothing_at),
        write: Some(write::<W>),
        label: Some(label::<&mut W>),
        free: Some(keep),
    };
    let desc = (&raw const payload).cast_mut().cast();
    // SAFETY: the callbacks match the payload's type. MLX's `save` functions write on the calling
    // thread and keep no copy of the writer, so it goes with the handle, before the payload does.
    let raw = unsafe { sys::mlx_io_writer_new(desc, vtable) };
    let writer = Writer { raw, _live: Live::new() };
    outcome(save(writer.raw), |desc| {
        // SAFETY: the handle is live, and the call fills `desc`.
        unsafe { sys::mlx_io_writer_descriptor(desc, writer.raw) }
    })
}

fn describe(
    f: &mut fmt::Formatter<'_>,
    call: impl FnOnce(*mut sys::mlx_string) -> c_int,
) -> fmt::Result {
    let mut text = Text::new();
    if call(text.as_mut_raw()) != 0 {
        return Err(fmt::Error);
    }
    fmt::Display::fmt(&text, f)
}

/// What came out of a call that used a stream: the stream's own failure before anything that MLX
/// made of it.
fn outcome<T>(result: Result<T>, descriptor: impl FnOnce(*mut *mut c_void) -> c_int) -> Result<T> {
    let mut desc = null_mut();
    if descriptor(&raw mut desc) != 0 {
        return result;
    }
    // SAFETY: the descriptor is a live payload, which begins with its label.
    let label = unsafe { &*desc.cast::<Label>() };
    match label.failed.get().and_then(|text| parked(&text.to_string_lossy())) {
        Some(Parked::Error(error)) => Err(error),
        Some(Parked::Panic(payload)) => std::panic::resume_unwind(payload),
        None => result,
    }
}
