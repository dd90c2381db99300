//! Dtypes as the objects of `mlx.core`.

use std::ffi::c_int;

use mlx_graft::Dtype;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::{joined, wrong_type};

unsafe extern "C" {
    fn graft_bridge_dtype_from_python(object: *mut PyObject) -> c_int;
    fn graft_bridge_dtype_to_python(number: usize) -> *mut PyObject;
}

/// An argument or a result that is an `mlx.core.Dtype`.
///
/// ```no_run
/// use mlx_graft::ops;
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, DtypeArg, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn rounded(x: ArrayIn, dtype: DtypeArg) -> Result<ArrayOut> {
///     Ok(ArrayOut(ops::astype(&ops::round(&x, 0)?, dtype.0)?))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtypeArg(pub Dtype);

impl<'py> FromPyObject<'_, 'py> for DtypeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        joined(object.py())?;
        // SAFETY: the object is live and the GIL is held.
        let number = unsafe { graft_bridge_dtype_from_python(object.as_ptr()) };
        let dtype = usize::try_from(number).ok().and_then(|number| Dtype::ALL.get(number));
        dtype.copied().map(Self).ok_or_else(|| wrong_type("an mlx.core.Dtype", object))
    }
}

impl<'py> IntoPyObject<'py> for DtypeArg {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        // `Dtype::ALL` is in the order of the variants.
        let number = self.0 as usize;
        // SAFETY: the number is one of the list; the result is a new reference, or null with an
        // error set.
        unsafe { Bound::from_owned_ptr_or_err(py, graft_bridge_dtype_to_python(number)) }
    }
}
