//! Copies of elements that lie anywhere, in row-major order.
#![allow(unsafe_code)]

use super::{KernelError, Layout};
use crate::call::slice_of;
use crate::{Dtype, sys};

/// An input whose elements a kernel cannot take where they lie, in memory of its own.
pub(super) struct RowCopy {
    /// Its capacity is what holds them; there are no words of it.
    memory: Vec<u64>,
    strides: Vec<i64>,
}

impl RowCopy {
    /// The copy of an input that a kernel takes in another layout, or which is not aligned to its
    /// elements, as a view of bytes may be; `None` if the kernel takes it as it is.
    ///
    /// # Safety
    /// `input` describes an array of `dtype` that nobody writes meanwhile.
    pub(super) unsafe fn if_needed(
        input: &sys::graft_primitive_input,
        dtype: Dtype,
        layout: Layout,
    ) -> Result<Option<Self>, KernelError> {
        let aligned = input.size == 0 || input.data.addr().is_multiple_of(dtype.size());
        if aligned && (input.row_contiguous || layout == Layout::Strided) {
            return Ok(None);
        }
        // As aligned as any element.
        let mut memory = Vec::<u64>::new();
        let bytes = input.size.saturating_mul(dtype.size());
        memory.try_reserve_exact(bytes.div_ceil(size_of::<u64>())).map_err(|_| {
            KernelError::new(format!("there is no memory to copy {} elements", input.size))
        })?;
        // SAFETY: the caller says so of the input, and there is memory for all of its elements.
        unsafe { copy(input, dtype, memory.as_mut_ptr().cast()) };
        // SAFETY: C++ keeps `ndim` lengths alive during the call.
        let shape = unsafe { slice_of(input.shape, input.ndim) };
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * i64::from(shape[i]);
        }
        Ok(Some(Self { memory, strides }))
    }

    /// The description of the input with its copied elements, which live as long as this.
    pub(super) fn describe(
        &self,
        input: &sys::graft_primitive_input,
    ) -> sys::graft_primitive_input {
        sys::graft_primitive_input {
            data: self.memory.as_ptr().cast(),
            strides: self.strides.as_ptr(),
            row_contiguous: true,
            ..*input
        }
    }
}

/// Writes the elements of an input to `to` in row-major order.
///
/// # Safety
/// `input` describes an array of `dtype` that nobody writes meanwhile; `to` is aligned to its
/// elements and has memory for all of them, apart from the input's own.
pub(super) unsafe fn copy(input: &sys::graft_primitive_input, dtype: Dtype, to: *mut u8) {
    // SAFETY: the caller says so, and these types have the sizes of the elements.
    unsafe {
        match dtype.size() {
            1 => copy_elements::<u8>(input, to.cast()),
            2 => copy_elements::<u16>(input, to.cast()),
            4 => copy_elements::<u32>(input, to.cast()),
            _ => copy_elements::<u64>(input, to.cast()),
        }
    }
}

/// # Safety
/// As for [`copy`], for elements of the size of `T`.
unsafe fn copy_elements<T>(input: &sys::graft_primitive_input, mut to: *mut T) {
    // SAFETY: C++ keeps `ndim` lengths and strides alive during the call.
    let (shape, strides) =
        unsafe { (slice_of(input.shape, input.ndim), slice_of(input.strides, input.ndim)) };
    // The last dimensions whose elements lie one after the other.
    let mut together = 1;
    let mut outer = shape.len();
    while outer > 0 && (strides[outer - 1] == together || shape[outer - 1] == 1) {
        outer -= 1;
        together *= i64::from(shape[outer]);
    }
    let together = together as usize;
    // Elements one by one, unless many lie together; along the last of the other dimensions.
    let (outer, length, stride) = match outer.checked_sub(1) {
        Some(last) => (last, shape[last], strides[last] as isize),
        None => (0, 1, 0),
    };
    let (mut from, mut left) = (input.data.cast::<T>(), input.size);
    let mut index = vec![0; outer];
    while left > 0 {
        for i in 0..length as isize {
            let from = from.wrapping_offset(i * stride);
            // SAFETY: the index is inside of the shape, so that these are elements of the array, and
            // there is room for them; the input may not be aligned.
            unsafe {
                if together == 1 {
                    to.write(from.read_unaligned());
                } else {
                    let bytes = together * size_of::<T>();
                    to.cast::<u8>().copy_from_nonoverlapping(from.cast(), bytes);
                }
                to = to.add(together);
            }
        }
        left -= together * length as usize;
        for i in (0..outer).rev() {
            from = from.wrapping_offset(strides[i] as isize);
            index[i] += 1;
            if index[i] < shape[i] {
                break;
            }
            from = from.wrapping_offset(-(shape[i] as isize * strides[i] as isize));
            index[i] = 0;
        }
    }
}
