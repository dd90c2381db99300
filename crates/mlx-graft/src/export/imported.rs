//! Functions from files.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::null_mut;

use crate::call::slice_of;
use crate::containers::{MapStringToArray, Text};
use crate::handles::Live;
use crate::index::check;
use crate::io::At;
use crate::stream::on_stream;
use crate::transforms::check_shapes;
use crate::{
    Array, BorrowedArray, Error, ErrorKind, Result, Stream, VectorArray, call, error, guard, sys,
};

const OP: &str = "import_function";

/// More than any version's name.
const LONGEST_VERSION: u64 = 256;

/// A function from a file.
///
/// MLX computes it on the first stream of the process on the device that the function was exported
/// for, so in a process with several threads it is evaluated on the one that used MLX first;
/// elsewhere evaluation fails for want of that stream.
pub struct ImportedFunction {
    raw: sys::mlx_imported_function,
    shapeless: bool,
    _live: Live,
    // The arrays that it captured are read on a stream of this thread.
    _thread: PhantomData<*const ()>,
}

/// Imports a function from a file; see the [module](crate::export) about which files to trust.
///
/// # Errors
/// [`Error::File`] if the file is missing, cut short or no exported function, or has an operation
/// that this MLX does not know.
pub fn import_function(path: impl AsRef<Path>) -> Result<ImportedFunction> {
    let path = path.as_ref();
    let at = At::path(OP, path);
    let (file, length) = at.open(path, ErrorKind::Runtime)?;
    let shapeless = check(file, length, &at)?;
    let name = at.c_path(path)?;
    call::ready();
    // SAFETY: `name` is a C string; a failure gives a null handle and a stored error.
    let raw = unsafe { sys::mlx_imported_function_new(name.as_ptr()) };
    let function = ImportedFunction { raw, shapeless, _live: Live::new(), _thread: PhantomData };
    match call::status(OP, || c_int::from(raw.ctx.is_null())) {
        Ok(()) => Ok(function),
        // MLX does not say which file.
        Err(Error::Mlx { kind, message, .. }) => Err(at.error(kind, message)),
        Err(other) => Err(other),
    }
}

/// Checks the header of a file: the version of MLX, the number of traces, whether they are
/// shapeless, which is returned, and the metadata.
fn check(mut file: impl Read, length: u64, at: &At) -> Result<bool> {
    let mut left = length;
    let mut bytes = |count: u64, most: u64| {
        if count > left.min(most) {
            return Err(at.broken("is no exported function, or is cut short"));
        }
        left -= count;
        let mut bytes = vec![0; count as usize];
        file.read_exact(&mut bytes).map_err(at.refused())?;
        Ok(bytes)
    };
    let number = |bytes: Vec<u8>| bytes.iter().rev().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let version = number(bytes(8, length)?);
    let version = bytes(version, LONGEST_VERSION)?;
    let dotted = version.iter().all(u8::is_ascii_graphic) && version.contains(&b'.');
    let count = number(bytes(4, length)?) as i32;
    let shapeless = bytes(1, length)?[0];
    if !dotted || count < 0 || shapeless > 1 {
        return Err(at.broken("is no exported function"));
    }
    let metadata = number(bytes(8, length)?);
    bytes(metadata, length)?;
    Ok(shapeless == 1)
}

impl ImportedFunction {
    /// Calls the function: adds its graph to that of the inputs.
    ///
    /// Its indices are checked as those of operations are, see [`index`](crate::index).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if no trace in the file is for such inputs; [`Error::Index`]
    /// for an index out of range, which is found at once if it is evaluated, and otherwise by the
    /// evaluation; [`ErrorKind::OutOfMemory`] for a result that cannot be.
    pub fn call<A: AsRef<Array>>(&self, args: &[A]) -> Result<Vec<Array>> {
        let list = VectorArray::from_arrays(args)?;
        let mut res = VectorArray::new();
        call::status(OP, || {
            // SAFETY: all handles are live.
            unsafe { sys::mlx_imported_function_apply(res.as_mut_raw(), self.raw, list.as_raw()) }
        })?;
        self.checked(res.to_vec()?, args.iter().map(AsRef::as_ref))
    }

    /// Calls the function with keyword arguments too.
    ///
    /// # Errors
    /// As for [`ImportedFunction::call`].
    pub fn call_kwargs<A: AsRef<Array>>(
        &self,
        args: &[A],
        kwargs: &BTreeMap<String, Array>,
    ) -> Result<Vec<Array>> {
        let list = VectorArray::from_arrays(args)?;
        let named = MapStringToArray::try_from(kwargs)?;
        let mut res = VectorArray::new();
        call::status(OP, || {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_imported_function_apply_kwargs(
                    res.as_mut_raw(),
                    self.raw,
                    list.as_raw(),
                    named.as_raw(),
                )
            }
        })?;
        self.checked(res.to_vec()?, args.iter().map(AsRef::as_ref).chain(kwargs.values()))
    }

    /// The outputs, if the operations of a shapeless trace can take the shapes of the inputs, and
    /// with checks of the indices that they take.
    fn checked<'a>(
        &self,
        outputs: Vec<Array>,
        inputs: impl Iterator<Item = &'a Array>,
    ) -> Result<Vec<Array>> {
        let inputs: Vec<&Array> = inputs.collect();
        if self.shapeless {
            check_shapes(&outputs, &inputs)?;
        }
        if check::are_on() {
            check_indices(&outputs, &inputs)?;
        }
        outputs.into_iter().map(|out| guard::possible(OP, out)).collect()
    }

    /// The text that was saved beside the function, empty if there was none.
    ///
    /// # Errors
    /// Memory is short.
    pub fn metadata(&self) -> Result<String> {
        let mut text = Text::new();
        call::status(OP, || {
            // SAFETY: both handles are live.
            unsafe { sys::graft_imported_function_metadata(text.as_mut_raw(), self.raw) }
        })?;
        Ok(text.to_string())
    }
}

/// Has the operations between arrays take nothing but indices in range: MLX reads and writes
/// wherever one points.
fn check_indices(outputs: &[Array], inputs: &[&Array]) -> Result<()> {
    let outputs = VectorArray::from_arrays(outputs)?;
    let inputs = VectorArray::from_arrays(inputs)?;
    call::status(OP, || {
        // SAFETY: both lists are live; the callback takes no payload.
        unsafe {
            sys::graft_replace_indices(
                outputs.as_raw(),
                inputs.as_raw(),
                Some(replace_checked),
                null_mut(),
            )
        }
    })
}

unsafe extern "C" fn replace_checked(
    res: *mut sys::mlx_array,
    used: *const sys::graft_index_use,
    _payload: *mut c_void,
) -> c_int {
    error::guarded(|| {
        // SAFETY: C++ describes indices by what is live until this returns.
        let checked = unsafe { with_check(&*used) }?;
        call::status(OP, || {
            // SAFETY: `res` is a slot, whose handle C++ frees; the array is copied.
            unsafe { sys::mlx_array_set(res, checked.as_raw()) }
        })
    })
}

/// The indices with a check, on the stream of their operation.
///
/// # Safety
/// What the description points to is live.
unsafe fn with_check(used: &sys::graft_index_use) -> Result<Array> {
    // SAFETY: the caller says so, here and below; nobody changes the arrays meanwhile.
    let array = |raw: sys::mlx_array| unsafe { BorrowedArray::new(raw.ctx) };
    let (indices, source) = (array(used.indices), array(used.source));
    // SAFETY: as above.
    let (axes, sizes) =
        unsafe { (slice_of(used.axes, used.num_axes), slice_of(used.sizes, used.num_sizes)) };
    // SAFETY: as above.
    let stream = unsafe { Stream::copied(used.stream.ctx) }?;
    on_stream(&stream, || {
        Ok(match used.kind {
            sys::GRAFT_INDEX_SLICES => {
                check::starts(OP, &source, &[&*indices], axes, sizes)?.remove(0).into_owned()
            }
            sys::GRAFT_INDEX_UPDATED_SLICES => {
                let updates = array(used.updates);
                check::updates(OP, &source, &[&*indices], &updates, axes)?.remove(0).into_owned()
            }
            sys::GRAFT_INDEX_PLACES => check::along(OP, &source, &indices, axes[0])?.into_owned(),
            sys::GRAFT_INDEX_SLICE => {
                check::start(OP, &source, &indices, axes, sizes)?.into_owned()
            }
            sys::GRAFT_INDEX_UPDATED_SLICE => {
                let updates = array(used.updates);
                check::update_start(OP, &source, &updates, &indices, axes)?.into_owned()
            }
            _ => check::matrices(OP, &source, &indices)?.into_owned(),
        })
    })
}

impl Drop for ImportedFunction {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_imported_function_free(self.raw) };
        }
    }
}
