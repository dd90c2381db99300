//! Arrays from data of the host.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::handles::Live;
use crate::{Array, Dtype, Element, Error, Result, call, sys};

const OP: &str = "array";

/// Checks that `len` bytes are what `shape` of `dtype` takes.
fn check_len(len: usize, shape: &[i32], dtype: Dtype) -> Result<()> {
    let size = shape
        .iter()
        .try_fold(1_usize, |n, &d| usize::try_from(d).ok().and_then(|d| n.checked_mul(d)));
    if size.and_then(|n| n.checked_mul(dtype.size())) == Some(len) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        OP,
        format!(
            "{len} bytes, {} elements of {dtype}, do not fill shape {shape:?}",
            len as f64 / dtype.size() as f64
        ),
    ))
}

/// The bytes of elements.
fn bytes_of<T: Element>(data: &[T]) -> &[u8] {
    // SAFETY: an initialised slice of a sealed element type, whose layout is the dtype's.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) }
}

/// The address of bytes to copy. MLX reads the first element of an empty array on some paths.
fn address(bytes: &[u8]) -> *const c_void {
    static NOTHING: [u64; 2] = [0; 2];
    if bytes.is_empty() { NOTHING.as_ptr().cast() } else { bytes.as_ptr().cast() }
}

/// What C++ holds of an owner of memory; the second reference is the caller's.
struct Payload<O> {
    owner: UnsafeCell<O>,
    _live: Live,
}

/// Frees an owner, once, on whatever thread lets go of the array last.
extern "C" fn release<O: Send>(payload: *mut c_void) {
    // A destructor runs inside C++ and must not unwind into it.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: a reference made in `from_owner`, given back once.
        drop(unsafe { Arc::from_raw(payload.cast::<Payload<O>>()) });
    }));
}

impl Array {
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
        Self::copied(bytes_of(data), shape, T::DTYPE)
    }

    /// An array of `shape` that copies the native-endian bytes of elements of `dtype`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the number of bytes does not fit, or a
    /// byte of booleans is neither 0 nor 1.
    pub fn from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Self> {
        if dtype == Dtype::Bool && bytes.iter().any(|&byte| byte > 1) {
            return Err(Error::invalid_argument(OP, "a boolean is a byte of 0 or 1"));
        }
        Self::copied(bytes, shape, dtype)
    }

    fn copied(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Self> {
        check_len(bytes.len(), shape, dtype)?;
        call::ready();
        let (data, dim) = (address(bytes), shape.len() as i32);
        // SAFETY: `data` holds as many bytes as shape and dtype say; MLX copies them.
        Self::made(unsafe { sys::mlx_array_new_data(data, shape.as_ptr(), dim, dtype.as_raw()) })
    }

    /// Owns what a constructor of mlx-c returned: null for a failure.
    fn made(raw: sys::mlx_array) -> Result<Self> {
        call::status(OP, || c_int::from(raw.ctx.is_null()))?;
        // SAFETY: `raw` is a new handle that we own.
        Ok(unsafe { Self::from_raw(raw) })
    }

    /// An array of no dimension.
    ///
    /// ```
    /// # use mlx_graft::{Array, Complex32};
    /// assert_eq!(Array::scalar(2.5_f32)?.item::<f32>()?, 2.5);
    /// let z = Complex32::new(1.0, -2.0);
    /// assert_eq!(Array::scalar(z)?.item::<Complex32>()?, z);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        call::ready();
        match value.scalar() {
            Some(raw) => Self::made(raw),
            None => Self::from_slice(&[value], &[]),
        }
    }

    /// An array of `shape` over the elements of `data`: without a copy where MLX's allocator can
    /// take memory over, which is on Metal for memory that begins at a page. See
    /// [`Array::from_owner`].
    ///
    /// # Errors
    /// As for [`Array::from_slice`]; `data` is freed then.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_vec(vec![1.0_f32, 2.0], &[2])?;
    /// assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[i32]) -> Result<Self> {
        Self::from_owner(data, shape)
    }

    /// An array of `shape` over memory that `owner` owns, such as a mapped file.
    ///
    /// `owner` is dropped once: when the last array of this memory is gone, on whatever thread that
    /// happens, or before this returns if MLX copied the elements, as its CPU and CUDA allocators
    /// do. MLX may reuse the memory for results when nobody else holds the array, so the owner must
    /// give exclusive access; shared memory is for [`Array::from_slice`].
    ///
    /// # Errors
    /// As for [`Array::from_slice`]; `owner` is dropped then.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let owner: Box<[i64]> = Box::new([1, 2, 3]);
    /// assert_eq!(Array::from_owner(owner, &[3])?.to_vec::<i64>()?, [1, 2, 3]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn from_owner<T, O>(owner: O, shape: &[i32]) -> Result<Self>
    where
        T: Element,
        O: AsMut<[T]> + Send + 'static,
    {
        call::ready();
        // One reference is for C++, one shows whether C++ took it when the call fails.
        let payload = Arc::new(Payload { owner: UnsafeCell::new(owner), _live: Live::new() });
        // SAFETY: nobody else knows the payload yet.
        let elements = unsafe { &mut *payload.owner.get() }.as_mut();
        check_len(size_of_val(elements), shape, T::DTYPE)?;
        let data: *mut c_void = match elements {
            [] => address(&[]).cast_mut(),
            elements => elements.as_mut_ptr().cast(),
        };
        let (dim, dtype) = (shape.len() as i32, T::DTYPE.as_raw());
        let given = Arc::into_raw(Arc::clone(&payload));
        // SAFETY: `data` holds as many elements as the shape says, for as long as the payload
        // lives, which `release` gets once; no one else has access to the owner until then.
        let raw = unsafe {
            let (payload, shape) = (given.cast_mut().cast(), shape.as_ptr());
            sys::mlx_array_new_data_managed_payload(
                data,
                shape,
                dim,
                dtype,
                payload,
                Some(release::<O>),
            )
        };
        if raw.ctx.is_null() && Arc::strong_count(&payload) > 1 {
            // C++ failed before it took the reference.
            release::<O>(given.cast_mut().cast());
        }
        // If MLX copied the elements, this is the last reference.
        release::<O>(Arc::into_raw(payload).cast_mut().cast());
        Self::made(raw)
    }

    /// Makes this handle one of a new array that copies `data`, without allocating a handle. Clones
    /// keep the array that it was.
    ///
    /// # Errors
    /// As for [`Array::from_slice`]; the handle then is what it was.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let mut x = Array::scalar(0_i32)?;
    /// let old = x.clone();
    /// x.assign(&[1.5_f32, 2.5], &[2])?;
    /// assert_eq!(x.to_vec::<f32>()?, [1.5, 2.5]);
    /// assert_eq!(old.item::<i32>()?, 0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn assign<T: Element>(&mut self, data: &[T], shape: &[i32]) -> Result<()> {
        let bytes = bytes_of(data);
        check_len(bytes.len(), shape, T::DTYPE)?;
        let (data, dim, dtype) = (address(bytes), shape.len() as i32, T::DTYPE.as_raw());
        call::status(OP, || {
            // SAFETY: the handle is ours; `data` holds as many bytes as shape and dtype say.
            unsafe { sys::mlx_array_set_data(self.as_mut_raw(), data, shape.as_ptr(), dim, dtype) }
        })
    }

    /// Makes this handle one of an array of no dimension, as [`Array::assign`] does.
    ///
    /// # Errors
    /// Memory is short.
    pub fn assign_scalar<T: Element>(&mut self, value: T) -> Result<()> {
        let mut status = None;
        call::status(OP, || {
            // SAFETY: the handle is ours.
            status = unsafe { value.set_scalar(self.as_mut_raw()) };
            status.unwrap_or_default()
        })?;
        match status {
            Some(_) => Ok(()),
            None => self.assign(&[value], &[]),
        }
    }
}
