//! Distributed groups as the objects of `mlx.core`.

use std::ffi::c_void;
use std::ops::Deref;

use mlx_graft::distributed::Group;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::{joined, wrong_type};

unsafe extern "C" {
    fn graft_bridge_group_from_python(object: *mut PyObject) -> *mut c_void;
    fn graft_bridge_group_to_python(group: *const c_void) -> *mut PyObject;
}

/// An argument that is an `mlx.core.distributed.Group`.
///
/// ```no_run
/// use mlx_graft::distributed;
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, GroupIn, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn total(x: ArrayIn, group: GroupIn) -> Result<ArrayOut> {
///     Ok(ArrayOut(distributed::all_sum(&x, Some(&group))?))
/// }
/// ```
pub struct GroupIn(pub Group);

impl Deref for GroupIn {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

impl<'py> FromPyObject<'_, 'py> for GroupIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        joined(object.py())?;
        // SAFETY: the object is live and the GIL is held.
        let group = unsafe { graft_bridge_group_from_python(object.as_ptr()) };
        if group.is_null() {
            return Err(wrong_type("an mlx.core.distributed.Group", object));
        }
        // SAFETY: a new C++ group, which nobody else has.
        Ok(Self(unsafe { mlx_graft::group_from_raw(group) }))
    }
}

/// A result that becomes an `mlx.core.distributed.Group`.
///
/// ```no_run
/// use mlx_graft_pyo3::{GroupIn, GroupOut, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn halves(group: GroupIn) -> Result<GroupOut> {
///     Ok(GroupOut(group.split(group.rank()? as i32 % 2, None)?))
/// }
/// ```
pub struct GroupOut(pub Group);

impl<'py> IntoPyObject<'py> for GroupOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        // SAFETY: the handle is live during the call, which shares the group; the result is a new
        // reference, or null with an error set.
        unsafe {
            let object = graft_bridge_group_to_python(mlx_graft::group_to_raw(&self.0));
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}
