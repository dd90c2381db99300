//! The memory that a kernel reads and writes.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::{MaybeUninit, transmute_copy};
use std::ptr::NonNull;
use std::slice;

use super::KernelError;
use crate::call::slice_of;
use crate::{Dtype, Element, sys};

/// The address of elements of `T`, checked.
fn typed<T: Element>(
    data: *const u8,
    size: usize,
    dtype: Dtype,
) -> Result<NonNull<T>, KernelError> {
    if dtype != T::DTYPE {
        return Err(KernelError::new(format!("the buffer is {dtype}, not {}", T::DTYPE)));
    }
    let data = data.cast::<T>();
    // A slice of bytes that is viewed as a wider type may start anywhere.
    if size > 0 && !data.is_aligned() {
        return Err(KernelError::new(format!("the {dtype} buffer is not aligned to its elements")));
    }
    match NonNull::new(data.cast_mut()) {
        _ if size == 0 => Ok(NonNull::dangling()),
        Some(data) => Ok(data),
        None => Err(KernelError::new("the buffer has no memory")),
    }
}

/// Checks bytes of booleans: anything but 0 and 1 is no value of the type in Rust.
fn check_bools(bytes: &[u8]) -> Result<(), KernelError> {
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(byte) => Err(KernelError::new(format!(
            "the buffer has a byte of {byte}, which is no bool: \
             compare its view as uint8 with zero first"
        ))),
        None => Ok(()),
    }
}

/// An input of a running kernel.
pub struct InputBuffer<'a> {
    raw: &'a sys::graft_primitive_input,
    dtype: Dtype,
}

impl<'a> InputBuffer<'a> {
    /// # Safety
    /// `raw` describes an array of `dtype` that nobody writes during `'a`.
    pub(super) unsafe fn new(raw: &'a sys::graft_primitive_input, dtype: Dtype) -> Self {
        Self { raw, dtype }
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &'a [i32] {
        // SAFETY: C++ keeps `ndim` lengths alive during the call.
        unsafe { slice_of(self.raw.shape, self.raw.ndim) }
    }

    /// The distance between neighbours along each dimension, in elements: 0 where the array is
    /// broadcast, negative where it is reversed.
    pub fn strides(&self) -> &'a [i64] {
        // SAFETY: C++ keeps `ndim` strides alive during the call.
        unsafe { slice_of(self.raw.strides, self.raw.ndim) }
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        self.raw.size
    }

    /// The dtype.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether the elements lie in row-major order, without gaps.
    pub fn is_row_contiguous(&self) -> bool {
        self.raw.row_contiguous
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// If the elements are not `T`, or do not lie in row-major order, which happens only for an
    /// input of [`Layout::Strided`](super::Layout); for `bool`, if a byte is neither 0 nor 1, as in
    /// a view of other numbers or in a file. [`Strided::get`] takes such a byte for true.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], KernelError> {
        let data = typed::<T>(self.raw.data.cast(), self.raw.size, self.dtype)?;
        if !self.raw.row_contiguous {
            return Err(KernelError::new(
                "the input is strided: ask for `Layout::RowContiguous` or read it by its strides",
            ));
        }
        if T::DTYPE == Dtype::Bool {
            // SAFETY: a row-contiguous array of booleans holds `size` bytes from `data` on.
            check_bools(unsafe { slice_of(data.as_ptr().cast(), self.raw.size) })?;
        }
        // SAFETY: a row-contiguous array holds `size` elements from `data` on; `T` is its sealed
        // element type, checked above with the alignment and what a boolean may be.
        Ok(unsafe { slice_of(data.as_ptr(), self.raw.size) })
    }

    /// The elements by their strides.
    ///
    /// # Errors
    /// If the elements are not `T`.
    pub fn strided<T: Element>(&self) -> Result<Strided<'a, T>, KernelError> {
        let data = typed::<T>(self.raw.data.cast(), self.raw.size, self.dtype)?;
        Ok(Strided { data, shape: self.shape(), strides: self.strides(), _life: PhantomData })
    }
}

/// Elements that may lie anywhere in memory, as those of an input.
#[derive(Clone, Copy)]
pub struct Strided<'a, T> {
    data: NonNull<T>,
    shape: &'a [i32],
    strides: &'a [i64],
    _life: PhantomData<&'a [T]>,
}

// SAFETY: it is a shared reference to plain numbers, which nobody writes during the kernel.
unsafe impl<T: Element> Send for Strided<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for Strided<'_, T> {}

impl<'a, T: Element> Strided<'a, T> {
    /// Elements of a slice, those at the index zero first.
    ///
    /// # Panics
    /// If there is not a stride for each dimension, or an index is outside of the slice.
    pub fn new(data: &'a [T], shape: &'a [i32], strides: &'a [i64]) -> Self {
        assert_eq!(shape.len(), strides.len(), "a stride for each dimension");
        assert!(shape.iter().all(|&length| length >= 0), "no length is negative");
        if !shape.contains(&0) {
            let end = |length: i32, stride: i64| i64::from(length - 1).checked_mul(stride);
            let ends = shape.iter().zip(strides).map(|(&length, &stride)| end(length, stride));
            let last = ends.clone().try_fold(0_i64, |sum, end| sum.checked_add(end?.max(0)));
            let first = ends.map(|end| end.unwrap_or(-1)).min().unwrap_or(0);
            let last = last.and_then(|last| usize::try_from(last).ok());
            assert!(
                first >= 0 && last.is_some_and(|last| last < data.len()),
                "inside of the slice"
            );
        }
        let data = NonNull::from(data).cast();
        Self { data, shape, strides, _life: PhantomData }
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &'a [i32] {
        self.shape
    }

    /// The distance between neighbours along each dimension, in elements.
    pub fn strides(&self) -> &'a [i64] {
        self.strides
    }

    /// The element at `index`, or `None` outside of the shape. A boolean is true if its byte is not
    /// zero.
    pub fn get(&self, index: &[i32]) -> Option<T> {
        if index.len() != self.shape.len() {
            return None;
        }
        let mut offset = 0;
        for ((&i, &length), &stride) in index.iter().zip(self.shape).zip(self.strides) {
            if !(0..length).contains(&i) {
                return None;
            }
            offset += i as isize * stride as isize;
        }
        // SAFETY: every index inside of the shape is an element of the array, and MLX keeps the
        // buffer alive and unwritten during the kernel.
        let element = unsafe { self.data.as_ptr().offset(offset) };
        if T::DTYPE == Dtype::Bool {
            // SAFETY: as above; an element of this dtype is one byte, of any value.
            let truth = unsafe { *element.cast::<u8>() } != 0;
            // SAFETY: the sealed type of this dtype is `bool`.
            return Some(unsafe { transmute_copy::<bool, T>(&truth) });
        }
        // SAFETY: as above; any bytes are a value of the other sealed types.
        Some(unsafe { *element })
    }

    /// The address of the element at index zero; not to be read if the shape has no element. The
    /// byte of a boolean may hold other values than 0 and 1, so read it as `u8`.
    pub fn as_ptr(&self) -> *const T {
        self.data.as_ptr()
    }
}

/// An output of a running kernel, row-contiguous.
pub struct OutputBuffer<'a> {
    raw: &'a sys::graft_primitive_output,
    dtype: Dtype,
    is_update: bool,
}

impl<'a> OutputBuffer<'a> {
    /// # Safety
    /// `raw` describes a buffer of `dtype` that nobody else touches during `'a`, and which holds the
    /// elements of an input if it `is_update`.
    pub(super) unsafe fn new(
        raw: &'a sys::graft_primitive_output,
        dtype: Dtype,
        is_update: bool,
    ) -> Self {
        Self { raw, dtype, is_update }
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &'a [i32] {
        // SAFETY: C++ keeps `ndim` lengths alive during the call.
        unsafe { slice_of(self.raw.shape, self.raw.ndim) }
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        self.raw.size
    }

    /// The dtype.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements in row-major order, set to zero.
    ///
    /// # Errors
    /// If the elements are not `T`.
    ///
    /// There is one such slice at a time:
    ///
    /// ```compile_fail,E0499
    /// # use mlx_graft::primitive::OutputBuffer;
    /// fn kernel(output: &mut OutputBuffer<'_>) {
    ///     let a = output.as_mut_slice::<f32>().unwrap();
    ///     let b = output.as_mut_slice::<f32>().unwrap();
    ///     a[0] = b[0];
    /// }
    /// ```
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], KernelError> {
        // SAFETY: every element is written below, before anybody can read it.
        let elements = unsafe { self.as_uninit_slice::<T>()? };
        // SAFETY: zero bytes are a value of every element type, `bool` included.
        unsafe {
            elements.as_mut_ptr().write_bytes(0, elements.len());
            Ok(&mut *(&raw mut *elements as *mut [T]))
        }
    }

    /// The elements in row-major order, as they are in the input that the output is an
    /// [update](super::Primitive::updates) of.
    ///
    /// # Errors
    /// If the elements are not `T`, or the output is no update; for `bool`, as
    /// [`InputBuffer::as_slice`].
    pub fn as_updated_slice<T: Element>(&mut self) -> Result<&mut [T], KernelError> {
        if !self.is_update {
            return Err(KernelError::new("the output is no update of an input"));
        }
        let data = typed::<T>(self.raw.data.cast(), self.raw.size, self.dtype)?;
        if T::DTYPE == Dtype::Bool {
            // SAFETY: the buffer holds `size` bytes from `data` on.
            check_bools(unsafe { slice_of(data.as_ptr().cast(), self.raw.size) })?;
        }
        // SAFETY: the buffer holds `size` elements of an input, of the checked type, and belongs to
        // this kernel alone. For no element the pointer is dangling and aligned.
        Ok(unsafe { slice::from_raw_parts_mut(data.as_ptr(), self.raw.size) })
    }

    /// The elements in row-major order, without the cost of clearing them first.
    ///
    /// # Errors
    /// If the elements are not `T`.
    ///
    /// # Safety
    /// A kernel that returns `Ok` has written every element.
    pub unsafe fn as_uninit_slice<T: Element>(
        &mut self,
    ) -> Result<&mut [MaybeUninit<T>], KernelError> {
        let data = typed::<T>(self.raw.data.cast(), self.raw.size, self.dtype)?;
        // SAFETY: the buffer was allocated for `size` elements of the checked type, and belongs to
        // this kernel alone; nothing is assumed of its content. For no element the pointer is
        // dangling and aligned.
        Ok(unsafe { slice::from_raw_parts_mut(data.as_ptr().cast(), self.raw.size) })
    }
}
