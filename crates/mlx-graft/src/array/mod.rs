//! The array handle, and what can be asked about an array.
#![allow(unsafe_code)]

mod host;
mod read;

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use crate::containers::Text;
use crate::handles::Live;
use crate::{Dtype, Error, ErrorKind, Result, call, sys};

pub use read::Elements;

/// An MLX array.
///
/// Cloning shares the same array; nothing is copied. An array is lazy until it is evaluated, by
/// [`Array::eval`], [`transforms::eval`](crate::transforms::eval) or a host read.
pub struct Array {
    raw: sys::mlx_array,
    _live: Live,
    // MLX evaluates a lazy array on the thread that made it only.
    _thread: PhantomData<*const ()>,
}

impl Array {
    /// Wraps a handle that nobody else frees. A null handle is allowed and freed as a no-op.
    ///
    /// # Safety
    /// `raw` was made by mlx-c, and the caller gives up ownership.
    pub(crate) unsafe fn from_raw(raw: sys::mlx_array) -> Self {
        Self { raw, _live: Live::new(), _thread: PhantomData }
    }

    /// The handle of somebody else, which must not be dropped here.
    ///
    /// # Safety
    /// `raw` is live as long as the result, which is never dropped.
    pub(crate) unsafe fn lent(raw: sys::mlx_array) -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self { raw, _live: Live::uncounted(), _thread: PhantomData })
    }

    /// The handle of no array, which mlx-c takes for "not given" and fills as a result.
    pub(crate) fn null() -> Self {
        // SAFETY: a null handle, which is freed as a no-op.
        unsafe { Self::from_raw(sys::mlx_array_new()) }
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_array {
        self.raw
    }

    fn as_mut_raw(&mut self) -> *mut sys::mlx_array {
        &raw mut self.raw
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &[i32] {
        let ndim = self.ndim();
        if ndim == 0 {
            return &[];
        }
        // SAFETY: MLX stores the shape in the array, which lives as long as `self`; it never
        // changes for a given handle.
        unsafe { std::slice::from_raw_parts(sys::mlx_array_shape(self.raw), ndim) }
    }

    /// The number of dimensions.
    pub fn ndim(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { sys::mlx_array_ndim(self.raw) }
    }

    /// The length of dimension `axis`; a negative one counts from the end.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] if there is no such dimension.
    pub fn dim(&self, axis: i32) -> Result<i32> {
        let ndim = self.ndim() as i32;
        if !(-ndim..ndim).contains(&axis) {
            return Err(Error::Mlx {
                kind: ErrorKind::OutOfRange,
                op: "dim",
                message: format!("axis {axis} of an array with {ndim} dimensions"),
            });
        }
        // SAFETY: the handle is live, and the axis exists.
        Ok(unsafe { sys::mlx_array_dim(self.raw, axis) })
    }

    /// The distance between neighbours along each dimension, in elements: 0 where the array is
    /// broadcast, negative where it is reversed. Evaluates the array, whose layout is not known
    /// before.
    ///
    /// # Errors
    /// What evaluation reports.
    ///
    /// ```
    /// # use mlx_graft::{Array, ops};
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
    /// assert_eq!(x.strides()?, [3, 1]);
    /// assert_eq!(ops::transpose(&x)?.strides()?, [1, 3]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn strides(&self) -> Result<Vec<i64>> {
        self.eval()?;
        let ndim = self.ndim();
        if ndim == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: MLX keeps one stride for each dimension in the array; the header says `size_t`
        // of what are signed 64-bit numbers.
        Ok(unsafe {
            std::slice::from_raw_parts(sys::mlx_array_strides(self.raw).cast::<i64>(), ndim)
        }
        .to_vec())
    }

    /// How the elements lie in memory. Evaluates the array.
    ///
    /// # Errors
    /// What evaluation reports.
    pub fn layout(&self) -> Result<MemoryLayout> {
        const OP: &str = "layout";
        self.eval()?;
        let (mut contiguous, mut rows, mut columns) = (false, false, false);
        call::status(OP, || {
            // SAFETY: the handle is live, and evaluated, which these calls need.
            unsafe {
                sys::_mlx_array_is_contiguous(&raw mut contiguous, self.raw)
                    | sys::_mlx_array_is_row_contiguous(&raw mut rows, self.raw)
                    | sys::_mlx_array_is_col_contiguous(&raw mut columns, self.raw)
            }
        })?;
        Ok(MemoryLayout { contiguous, row_contiguous: rows, col_contiguous: columns })
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { sys::mlx_array_size(self.raw) }
    }

    /// The number of bytes of one element.
    pub fn itemsize(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { sys::mlx_array_itemsize(self.raw) }
    }

    /// The number of bytes of the elements.
    pub fn nbytes(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { sys::mlx_array_nbytes(self.raw) }
    }

    /// The dtype.
    ///
    /// # Panics
    /// If MLX has a dtype that this version does not know, which the pinned MLX has not.
    pub fn dtype(&self) -> Dtype {
        // SAFETY: the handle is live.
        Dtype::from_raw(unsafe { sys::mlx_array_dtype(self.raw) }).expect("a dtype of pinned MLX")
    }

    /// Whether the array has been computed, so that reading it does not wait.
    pub fn is_available(&self) -> bool {
        let mut res = false;
        // SAFETY: the handle is live.
        unsafe { sys::_mlx_array_is_available(&raw mut res, self.raw) };
        res
    }

    /// Whether the array has been evaluated, or is being evaluated.
    pub fn is_scheduled(&self) -> bool {
        let mut res = false;
        // SAFETY: the handle is live.
        unsafe { sys::graft_array_is_scheduled(&raw mut res, self.raw) };
        res
    }

    /// Whether the array is a placeholder of a transformation being traced, without values.
    pub fn is_tracer(&self) -> bool {
        let mut res = false;
        // SAFETY: the handle is live.
        unsafe { sys::graft_array_is_tracer(&raw mut res, self.raw) };
        res
    }

    /// The identity of the array: equal for clones, different for other arrays that live now.
    pub fn id(&self) -> usize {
        let mut res = 0;
        // SAFETY: the handle is live.
        unsafe { sys::graft_array_id(&raw mut res, self.raw) };
        res
    }

    /// Computes the array.
    ///
    /// # Errors
    /// What MLX reports, or a failed kernel of an operation written in Rust.
    pub fn eval(&self) -> Result<()> {
        const OP: &str = "eval";
        // SAFETY: the handle is live.
        call::evaluation(OP, || unsafe { sys::mlx_array_eval(self.raw) })
    }

    /// Waits for an evaluation that [`transforms::async_eval`](crate::transforms::async_eval)
    /// started; computes the array if none did.
    ///
    /// # Errors
    /// What the evaluation reports.
    pub fn wait(&self) -> Result<()> {
        if !self.is_scheduled() {
            return self.eval();
        }
        // SAFETY: the handle is live, and scheduled: MLX takes an array that is not for available.
        call::evaluation("wait", || unsafe { sys::_mlx_array_wait(self.raw) })
    }
}

/// How the elements of an evaluated array lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Without gaps, in any order of the dimensions.
    pub contiguous: bool,
    /// One after the other, the last dimension fastest.
    pub row_contiguous: bool,
    /// One after the other, the first dimension fastest.
    pub col_contiguous: bool,
}

impl Clone for Array {
    fn clone(&self) -> Self {
        let mut array = Self::null();
        array.clone_from(self);
        array
    }

    fn clone_from(&mut self, source: &Self) {
        if source.raw.ctx.is_null() {
            *self = Self::null();
            return;
        }
        // SAFETY: `source` is live, and our handle is live or null. Sharing can fail only for want
        // of memory, and leaves our handle as it was.
        unsafe { sys::mlx_array_set(&raw mut self.raw, source.raw) };
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_array_free(self.raw) };
        }
    }
}

impl AsRef<Self> for Array {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The shape and the dtype; an array is not evaluated for a debug print.
impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({:?}, {})", self.shape(), self.dtype())
    }
}

/// The elements, as Python prints them. Evaluates the array.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.eval().is_err() {
            return fmt::Debug::fmt(self, f);
        }
        let mut text = Text::new();
        // SAFETY: both handles are live.
        if unsafe { sys::mlx_array_tostring(text.as_mut_raw(), self.raw) } != 0 {
            return Err(fmt::Error);
        }
        text.fmt(f)
    }
}
