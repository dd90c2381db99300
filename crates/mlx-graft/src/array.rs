//! The array handle: making arrays from host data, asking about them, reading them back.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Dtype, Element, Error, Result, call, ops, sys};

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

    pub(crate) fn as_raw(&self) -> sys::mlx_array {
        self.raw
    }

    /// An array of `shape` that copies `data`, which is in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the length of `data` is not the product
    /// of `shape`.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
    /// assert_eq!(x.shape(), [2, 3]);
    /// assert!(Array::from_slice(&[1, 2, 3], &[2, 2]).is_err());
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn from_slice<T: Element>(data: &[T], shape: &[i32]) -> Result<Self> {
        // SAFETY: an initialised slice of a sealed element type, whose layout is the dtype's.
        let bytes =
            unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        Self::from_bytes(bytes, shape, T::DTYPE)
    }

    /// An array of `shape` that copies the native-endian bytes of elements of `dtype`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the number of bytes does not fit.
    pub fn from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Self> {
        const OP: &str = "array";
        call::ready();
        let size = shape
            .iter()
            .try_fold(1_usize, |n, &d| usize::try_from(d).ok().and_then(|d| n.checked_mul(d)));
        if size.and_then(|n| n.checked_mul(dtype.size())) != Some(bytes.len()) {
            return Err(Error::invalid_argument(
                OP,
                format!(
                    "{} bytes do not fill shape {shape:?} of {dtype}, which takes {} each",
                    bytes.len(),
                    dtype.size()
                ),
            ));
        }
        let dim = shape.len() as i32;
        // MLX dereferences the data of an empty array's first element on some paths.
        let aligned = [0_u64; 2];
        let data = if bytes.is_empty() { aligned.as_ptr().cast() } else { bytes.as_ptr().cast() };
        let mut res = sys::mlx_array { ctx: null_mut() };
        call::status(OP, || {
            // SAFETY: `data` holds as many bytes as shape and dtype say; MLX copies them.
            unsafe {
                sys::mlx_array_set_data(&raw mut res, data, shape.as_ptr(), dim, dtype.as_raw())
            }
        })?;
        // SAFETY: `res` is a new handle that we own.
        Ok(unsafe { Self::from_raw(res) })
    }

    /// An array of no dimension.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// assert_eq!(Array::scalar(2.5_f32)?.item::<f32>()?, 2.5);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        Self::from_slice(&[value], &[])
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
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind) if there is no such dimension.
    pub fn dim(&self, axis: i32) -> Result<i32> {
        let ndim = self.ndim() as i32;
        let index = if axis < 0 { axis + ndim } else { axis };
        self.shape().get(index as usize).copied().ok_or_else(|| Error::Mlx {
            kind: crate::ErrorKind::OutOfRange,
            op: "dim",
            message: format!("axis {axis} of an array with {ndim} dimensions"),
        })
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { sys::mlx_array_size(self.raw) }
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
        call::with_closures(OP, || unsafe { sys::mlx_array_eval(self.raw) })
    }

    /// The elements in row-major order, whatever the strides of the array.
    ///
    /// # Errors
    /// [`Error::Dtype`] if the array has another dtype, or what evaluation reports.
    ///
    /// ```
    /// # use mlx_graft::{Array, ops};
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
    /// assert_eq!(ops::transpose(&x)?.to_vec::<i32>()?, [1, 4, 2, 5, 3, 6]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        const OP: &str = "to_vec";
        if self.dtype() != T::DTYPE {
            return Err(Error::Dtype { op: OP, found: self.dtype(), wanted: T::DTYPE });
        }
        let dense = self.dense()?;
        let mut values = vec![T::default(); self.size()];
        // SAFETY: `values` has room for exactly the bytes of the array, whose elements are valid
        // values of the sealed type `T` (MLX stores booleans as 0 or 1).
        unsafe {
            std::ptr::copy_nonoverlapping(
                dense.data_ptr(OP)?,
                values.as_mut_ptr().cast::<u8>(),
                size_of_val(values.as_slice()),
            );
        }
        Ok(values)
    }

    /// The native-endian bytes of the elements in row-major order.
    ///
    /// # Errors
    /// What evaluation reports.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let dense = self.dense()?;
        let len = self.nbytes();
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: the source is row-contiguous and holds `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(dense.data_ptr("to_bytes")?, bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        Ok(bytes)
    }

    /// The value of an array with one element, converted to `T`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if there is not exactly one element.
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.size() != 1 {
            return Err(Error::invalid_argument(
                "item",
                format!("needs an array of one element, not of shape {:?}", self.shape()),
            ));
        }
        if self.dtype() == T::DTYPE {
            return Ok(self.to_vec::<T>()?[0]);
        }
        Ok(ops::astype(self, T::DTYPE)?.to_vec::<T>()?[0])
    }

    /// An evaluated array with the same elements, row-contiguous.
    fn dense(&self) -> Result<Self> {
        const OP: &str = "contiguous";
        self.eval()?;
        let mut dense = false;
        call::status(OP, || {
            // SAFETY: the handle is live, and evaluated, which this call needs.
            unsafe { sys::_mlx_array_is_row_contiguous(&raw mut dense, self.raw) }
        })?;
        if dense {
            return Ok(self.clone());
        }
        let copy = ops::contiguous(self, false)?;
        copy.eval()?;
        Ok(copy)
    }

    /// The first element of an evaluated array.
    fn data_ptr(&self, op: &'static str) -> Result<*const u8> {
        // SAFETY: the handle is live.
        let data = unsafe { sys::graft_array_data(self.raw) };
        if data.is_null() && self.size() > 0 {
            return Err(Error::Mlx {
                kind: crate::ErrorKind::Runtime,
                op,
                message: "the array has no data: it is being traced or was not evaluated".into(),
            });
        }
        // An empty array may have no buffer; no byte of it is read.
        Ok(if data.is_null() { std::ptr::dangling() } else { data.cast() })
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        let mut raw = sys::mlx_array { ctx: null_mut() };
        if !self.raw.ctx.is_null() {
            // SAFETY: both handles are live. Sharing can fail only for want of memory, and then
            // `raw` stays null, which every later call reports.
            unsafe { sys::mlx_array_set(&raw mut raw, self.raw) };
        }
        // SAFETY: `raw` is a new handle that we own.
        unsafe { Self::from_raw(raw) }
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
        let mut text = MaybeUninit::new(sys::mlx_string { ctx: null_mut() });
        // SAFETY: `text` is a null handle that the call fills; it is freed below, once, after its
        // characters were copied.
        unsafe {
            if sys::mlx_array_tostring(text.as_mut_ptr(), self.raw) != 0 {
                return Err(fmt::Error);
            }
            let text = text.assume_init();
            let copied = CStr::from_ptr(sys::mlx_string_data(text)).to_string_lossy().into_owned();
            sys::mlx_string_free(text);
            f.write_str(&copied)
        }
    }
}
