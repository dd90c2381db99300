//! Elements of arrays on the host.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

use crate::dtype::are_values;
use crate::{Array, Element, Error, ErrorKind, Result, call, ops, sys};

/// The elements of an array in row-major order, read where MLX keeps them.
///
/// Holds the array, so that its memory stays and is not written: MLX writes into the memory of an
/// array only when nobody else holds it. The slice cannot outlive this:
///
/// ```compile_fail,E0505
/// # use mlx_graft::Array;
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
/// let elements = x.as_slice::<f32>().unwrap();
/// let slice: &[f32] = &elements;
/// drop(elements);
/// println!("{slice:?}");
/// ```
pub struct Elements<T> {
    data: NonNull<T>,
    len: usize,
    array: Array,
}

impl<T: Element> Elements<T> {
    /// The array that the elements are of: row-contiguous and evaluated.
    pub fn array(&self) -> &Array {
        &self.array
    }
}

impl<T: Element> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `as_slice` checked dtype, layout and values; the array keeps the memory alive
        // and unwritten.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Element + fmt::Debug> fmt::Debug for Elements<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn check_dtype<T: Element>(op: &'static str, array: &Array) -> Result<()> {
    if array.dtype() == T::DTYPE {
        return Ok(());
    }
    Err(Error::Dtype { op, found: array.dtype(), wanted: T::DTYPE })
}

impl Array {
    /// The elements in row-major order, without a copy if they lie in memory so; of a transposed,
    /// broadcast or otherwise strided array, a contiguous copy is made. Evaluates the array.
    ///
    /// # Errors
    /// [`Error::Dtype`] if the array has another dtype, or what evaluation reports.
    ///
    /// ```
    /// # use mlx_graft::{Array, ops};
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
    /// assert_eq!(x.as_slice::<i32>()?.iter().sum::<i32>(), 21);
    /// assert_eq!(*ops::transpose(&x)?.as_slice::<i32>()?, [1, 4, 2, 5, 3, 6]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn as_slice<T: Element>(&self) -> Result<Elements<T>> {
        const OP: &str = "as_slice";
        check_dtype::<T>(OP, self)?;
        let mut array = self.dense()?;
        let mut data = array.data::<T>(OP)?;
        let len = self.size();
        // SAFETY: the array is row-contiguous and holds `len` elements.
        let bytes = unsafe { slice::from_raw_parts(data.as_ptr().cast(), len * size_of::<T>()) };
        if !are_values::<T>(bytes) {
            array = ops::astype(&ops::view(&array, crate::Dtype::Uint8)?, T::DTYPE)?.dense()?;
            data = array.data::<T>(OP)?;
        }
        Ok(Elements { data, len, array })
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
        Ok(self.as_slice::<T>()?.to_vec())
    }

    /// The native-endian bytes of the elements in row-major order.
    ///
    /// # Errors
    /// What evaluation reports.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        const OP: &str = "to_bytes";
        let dense = self.dense()?;
        // SAFETY: the handle is live.
        let data = unsafe { sys::graft_array_data(dense.as_raw()) };
        let data = dense.checked::<u8>(OP, data.cast())?;
        // SAFETY: the array is row-contiguous and holds as many bytes.
        Ok(unsafe { slice::from_raw_parts(data.as_ptr(), self.nbytes()) }.to_vec())
    }

    /// The value of an array with one element, converted to `T`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there is not exactly one element.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// assert_eq!(Array::from_slice(&[7_i32], &[1, 1])?.item::<f32>()?, 7.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn item<T: Element>(&self) -> Result<T> {
        const OP: &str = "item";
        if self.size() != 1 {
            return Err(Error::invalid_argument(
                OP,
                format!("needs an array of one element, not of shape {:?}", self.shape()),
            ));
        }
        if self.dtype() != T::DTYPE {
            return ops::astype(self, T::DTYPE)?.item();
        }
        let mut value = MaybeUninit::<T>::zeroed();
        call::evaluation(OP, || {
            // SAFETY: the array is of this type and has one element, and `value` takes it.
            unsafe { T::item(value.as_mut_ptr(), self.as_raw()) }
        })?;
        // SAFETY: `value` has the size of `T`, and was written.
        let bytes = unsafe { slice::from_raw_parts(value.as_ptr().cast::<u8>(), size_of::<T>()) };
        if !are_values::<T>(bytes) {
            return ops::astype(&ops::view(self, crate::Dtype::Uint8)?, T::DTYPE)?.item();
        }
        // SAFETY: the bytes are a value of `T`.
        Ok(unsafe { value.assume_init() })
    }

    /// An evaluated array with the same elements, row-contiguous.
    fn dense(&self) -> Result<Self> {
        if self.layout()?.row_contiguous {
            return Ok(self.clone());
        }
        let copy = ops::contiguous(self, false)?;
        copy.eval()?;
        Ok(copy)
    }

    /// The first element of an evaluated array of `T`.
    fn data<T: Element>(&self, op: &'static str) -> Result<NonNull<T>> {
        if !self.is_available() {
            return self.checked(op, std::ptr::null());
        }
        // SAFETY: the dtype was checked, and what is available has data.
        self.checked(op, unsafe { T::data(self.as_raw()) })
    }

    fn checked<T>(&self, op: &'static str, data: *const T) -> Result<NonNull<T>> {
        match NonNull::new(data.cast_mut()) {
            Some(data) if data.is_aligned() => Ok(data),
            // An empty array may have no buffer; no byte of it is read.
            _ if self.size() == 0 => Ok(NonNull::dangling()),
            Some(_) => Err(Error::invalid_argument(
                op,
                format!(
                    "the array is a view that does not begin at an element of {}",
                    self.dtype()
                ),
            )),
            None => Err(Error::Mlx {
                kind: ErrorKind::Runtime,
                op,
                message: "the array has no data: it is being traced or was not evaluated".into(),
            }),
        }
    }
}
