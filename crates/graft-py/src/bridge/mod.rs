//! The bridge: objects of `mlx.core` as handles of Rust and back. Arrays cross without a copy and
//! without evaluation. The only module of this crate with `unsafe` code.
#![allow(unsafe_code)]

mod dtype;
mod group;
mod held;
mod owned;
mod stream;
mod traces;

use std::ffi::c_void;
use std::ops::Deref;

use mlx_graft::{Array, BorrowedArray};
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyType;

pub(crate) use dtype::DtypeArg;
pub(crate) use group::{GroupIn, GroupOut};
pub(crate) use held::Held;
pub(crate) use owned::Owned;
pub(crate) use stream::{
    DeviceIn, DeviceOut, DeviceTypeIn, StreamIn, StreamOrDevice, StreamOut, ThreadLocalStreamOut,
};
pub(crate) use traces::PyTraces;

unsafe extern "C" {
    fn graft_bridge_join(module: *mut PyObject, ty: *mut PyObject) -> bool;
    fn graft_bridge_from_python(object: *mut PyObject) -> *const c_void;
    fn graft_bridge_to_python(array: *mut c_void) -> *mut PyObject;
}

/// Joins the type registry of the `mlx.core` that is loaded.
pub(crate) fn join(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let core = module.py().import("mlx.core")?;
    let ty = core.getattr("array")?.cast_into::<PyType>()?;
    // SAFETY: both pointers are live Python objects and the GIL is held.
    if unsafe { graft_bridge_join(module.as_ptr(), ty.as_ptr()) } {
        return Ok(());
    }
    let version: String = core.getattr("__version__")?.extract()?;
    Err(PyImportError::new_err(format!(
        "mlx {version} does not share its array type with this build of mlx_graft (another \
         nanobind). Install the mlx that it was built for: pip install 'mlx=={}'",
        mlx_graft::sys::MLX_VERSION
    )))
}

/// An argument that is an `mlx.core.array`, borrowed from the Python object.
///
/// Other Python code may change an array in place, so what runs without the GIL or calls Python
/// takes a handle of its own, by [`In::into_array`].
pub(crate) struct In {
    array: BorrowedArray<'static>,
    /// Keeps the array alive.
    _object: Py<PyAny>,
}

impl Deref for In {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.array
    }
}

impl AsRef<Array> for In {
    fn as_ref(&self) -> &Array {
        &self.array
    }
}

impl In {
    /// The object as an array, if it is one.
    pub(crate) fn of(object: Borrowed<'_, '_, PyAny>) -> Option<Self> {
        borrowed(&object).map(|array| Self { array, _object: object.to_owned().unbind() })
    }

    /// A handle of our own.
    pub(crate) fn into_array(self) -> Array {
        self.array.clone()
    }
}

impl<'py> FromPyObject<'_, 'py> for In {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Self::of(object).ok_or_else(|| wrong_type("an mlx.core.array", object))
    }
}

/// The array inside an object, if it is one. The result lives as long as the object.
fn borrowed(object: &Bound<'_, PyAny>) -> Option<BorrowedArray<'static>> {
    // SAFETY: the object is live and the GIL is held.
    let array = unsafe { graft_bridge_from_python(object.as_ptr()) };
    if array.is_null() {
        return None;
    }
    // SAFETY: `array` points to the C++ array inside the object, which the callers keep alive;
    // mlx.core and this crate are linked to the same libmlx. Only code with the GIL changes an
    // array, and it is held where the result is used.
    Some(unsafe { BorrowedArray::new(array) })
}

/// A handle of our own of the array that an object is, if it is one.
pub(crate) fn array_of(object: &Bound<'_, PyAny>) -> Option<Array> {
    borrowed(object).map(|array| array.clone())
}

/// Whether an object is an array.
pub(crate) fn is_array(object: &Bound<'_, PyAny>) -> bool {
    borrowed(object).is_some()
}

/// A result that becomes an `mlx.core.array`.
pub(crate) struct Out(pub(crate) Array);

impl<'py> IntoPyObject<'py> for Out {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the call moves the array out of the handle, which is ours alone and is only
        // freed afterwards; the result is a new reference, or null with an error set.
        unsafe {
            let object = graft_bridge_to_python(mlx_graft::array_to_raw(&self.0).cast_mut());
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}

/// The number of references to an object.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is live and the GIL is held.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}

/// Runs an operation without the checks of indices, which `mlx.core` does not make either: the
/// Python functions build the very graph of `mlx.core`, which can be exported.
pub(crate) fn unchecked<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: none that this crate could show. As with `mlx.core`, and as its documentation says,
    // an index out of range is undefined, and the caller in Python answers for it.
    unsafe { mlx_graft::index::unchecked(f) }
}

/// The error for an argument of another type.
pub(crate) fn wrong_type(wanted: &str, found: Borrowed<'_, '_, PyAny>) -> PyErr {
    let ty = found.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyTypeError::new_err(format!("expected {wanted}, not {ty}"))
}

/// A value that is moved into a call without the GIL and out again on the same thread.
struct SameThread<T>(T);

// SAFETY: `Python::detach` runs its closure on the calling thread; the bound only keeps Python
// objects out, and `without_gil` has its own rule for those.
unsafe impl<T> Send for SameThread<T> {}

impl<T> SameThread<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

/// Runs `f` without the GIL, so that other Python threads go on while MLX computes.
///
/// `f` must not touch Python objects. It may hold arrays: it stays on this thread. Closures of
/// Python's that MLX holds take the GIL themselves when they are called or freed.
pub(crate) fn without_gil<T>(py: Python<'_>, f: impl FnOnce() -> T) -> T {
    let f = SameThread(f);
    py.detach(move || SameThread(f.into_inner()())).into_inner()
}
