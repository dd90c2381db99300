//! Arrays as the objects of `mlx.core`.

use std::ffi::c_void;
use std::ops::Deref;

use mlx_graft::{Array, BorrowedArray};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::{joined, wrong_type};

unsafe extern "C" {
    fn graft_bridge_array_from_python(object: *mut PyObject) -> *const c_void;
    fn graft_bridge_array_to_python(array: *mut c_void) -> *mut PyObject;
}

/// An argument that is an `mlx.core.array`; another type is a `TypeError`.
///
/// It holds the array as it is now, not the Python object: `x += 1` in Python changes the latter
/// only. Lists, tuples and options of arrays are taken as `PyO3` takes them: `Vec<ArrayIn>`.
///
/// ```no_run
/// use mlx_graft::ops;
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn weighted(x: ArrayIn, weight: Option<ArrayIn>) -> Result<ArrayOut> {
///     Ok(ArrayOut(match weight {
///         Some(weight) => ops::multiply(&x, &weight)?,
///         None => x.0,
///     }))
/// }
/// ```
pub struct ArrayIn(pub Array);

impl Deref for ArrayIn {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.0
    }
}

impl AsRef<Array> for ArrayIn {
    fn as_ref(&self) -> &Array {
        &self.0
    }
}

impl<'py> FromPyObject<'_, 'py> for ArrayIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        joined(object.py())?;
        // SAFETY: this module has joined, and the array is copied at once.
        let array = unsafe { borrow_array(object) }.map(|array| array.clone());
        array.map(Self).ok_or_else(|| wrong_type("an mlx.core.array", object))
    }
}

/// The array inside an object, if it is one, for code that counts every reference it takes;
/// [`ArrayIn`] is for all other.
///
/// # Safety
/// [`join`](super::join) has succeeded. The object lives as long as the result. And while something
/// is borrowed from the result, such as its shape, no Python code runs, in this thread or another:
/// it may put another array in the object's place.
///
/// ```no_run
/// use mlx_graft_pyo3::borrow_array;
/// use pyo3::prelude::*;
///
/// /// How many arrays a list holds.
/// #[pyfunction]
/// fn count_arrays(list: Vec<Bound<'_, PyAny>>) -> usize {
///     // SAFETY: the module has joined when it was made; the results are dropped at once.
///     list.iter().filter(|object| unsafe { borrow_array(object.as_borrowed()) }.is_some()).count()
/// }
/// ```
#[inline]
pub unsafe fn borrow_array(object: Borrowed<'_, '_, PyAny>) -> Option<BorrowedArray<'static>> {
    // SAFETY: the object is live and the GIL is held; the caller has joined.
    let array = unsafe { graft_bridge_array_from_python(object.as_ptr()) };
    if array.is_null() {
        return None;
    }
    // SAFETY: `array` points to the C++ array inside the object, of the same libmlx; the rest is
    // the caller's promise.
    Some(unsafe { BorrowedArray::new(array) })
}

/// A result that becomes an `mlx.core.array`; tuples and vectors of it become tuples and lists.
///
/// ```no_run
/// use mlx_graft::ops;
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn bounds(x: ArrayIn) -> Result<(ArrayOut, ArrayOut)> {
///     Ok((ArrayOut(ops::min(&x, false)?), ArrayOut(ops::max(&x, false)?)))
/// }
/// ```
pub struct ArrayOut(pub Array);

impl<'py> IntoPyObject<'py> for ArrayOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    #[inline]
    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        // SAFETY: the call moves the array out of the handle, which is ours alone and is only
        // freed afterwards; the result is a new reference, or null with an error set.
        unsafe {
            let object = graft_bridge_array_to_python(mlx_graft::array_to_raw(&self.0).cast_mut());
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}
