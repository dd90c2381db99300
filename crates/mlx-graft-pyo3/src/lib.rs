//! Objects of Python's `mlx.core` as arguments and results of functions written with `PyO3`.
//!
//! Arrays cross as references: no copy and no evaluation, as nodes of the one lazy graph. So a
//! function that takes [`ArrayIn`] and returns [`ArrayOut`] is traced through by Python's `mx.grad`,
//! `mx.vmap` and `mx.compile`, whether it applies operations of MLX or a
//! [`Primitive`](mlx_graft::primitive::Primitive) of its own. `docs/primitives.md` makes a whole
//! extension module.
//!
//! ```no_run
//! use mlx_graft::ops;
//! use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result};
//! use pyo3::prelude::*;
//!
//! /// The sum of the squares.
//! #[pyfunction]
//! fn energy(x: ArrayIn) -> Result<ArrayOut> {
//!     Ok(ArrayOut(ops::sum(&ops::square(&x)?, false)?))
//! }
//!
//! #[pymodule]
//! fn physics(module: &Bound<'_, PyModule>) -> PyResult<()> {
//!     mlx_graft_pyo3::join(module.py())?;
//!     module.add_function(wrap_pyfunction!(energy, module)?)
//! }
//! ```
//!
//! # Several extension modules in one process
//! Each has a copy of this crate, of mlx-c and of their states: errors in flight and counts of
//! handles are each module's own. What they share is `libmlx` and the type registry of `mlx.core`,
//! and with them arrays, streams, random state, memory and its limits.
#![allow(unsafe_code)]

mod array;
mod dtype;
mod error;
mod group;
mod owned;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyType;

pub use array::{ArrayIn, ArrayOut, borrow_array};
pub use dtype::DtypeArg;
pub use error::{Error, Result};
pub use group::{GroupIn, GroupOut};
pub use owned::Owned;
pub use stream::{
    DeviceIn, DeviceOut, DeviceTypeIn, StreamIn, StreamOrDevice, StreamOut, ThreadLocalStreamOut,
};

unsafe extern "C" {
    fn graft_bridge_join(array_type: *mut PyObject) -> bool;
}

/// Whether this module has joined. Written and read with the GIL.
static JOINED: AtomicBool = AtomicBool::new(false);

/// Joins the type registry of `mlx.core`, which is imported for it.
///
/// The function of the module calls it first, so that the import fails if the MLX that is installed
/// is not the one that the module was built for. Conversions join by themselves where it was not
/// called.
///
/// # Errors
/// An `ImportError` that names the version to install, or what the import of `mlx.core` raises.
///
/// ```no_run
/// use pyo3::prelude::*;
///
/// #[pymodule]
/// fn physics(module: &Bound<'_, PyModule>) -> PyResult<()> {
///     mlx_graft_pyo3::join(module.py())
/// }
/// ```
pub fn join(py: Python<'_>) -> PyResult<()> {
    let core = py.import("mlx.core")?;
    let version: String = core.getattr("__version__")?.extract()?;
    let wanted = mlx_graft::sys::MLX_VERSION;
    let ty = core.getattr("array")?.cast_into::<PyType>()?;
    // SAFETY: the type is live and the GIL is held.
    if version == wanted && unsafe { graft_bridge_join(ty.as_ptr()) } {
        JOINED.store(true, Ordering::Relaxed);
        return Ok(());
    }
    Err(PyImportError::new_err(format!(
        "mlx {version} does not share its array type with this extension module (another version \
         of MLX or of nanobind). Install the mlx that it was built for: pip install \
         'mlx=={wanted}'"
    )))
}

/// Joins unless that is done: without the registry the native half has no types to look for.
#[inline]
fn joined(py: Python<'_>) -> PyResult<()> {
    if JOINED.load(Ordering::Relaxed) { Ok(()) } else { join(py) }
}

/// The `TypeError` for an argument of another type than the `wanted` one.
///
/// ```no_run
/// use mlx_graft_pyo3::wrong_type;
/// use pyo3::prelude::*;
///
/// fn refuse(object: Borrowed<'_, '_, PyAny>) -> PyErr {
///     wrong_type("an array or a number", object)
/// }
/// ```
pub fn wrong_type(wanted: &str, found: Borrowed<'_, '_, PyAny>) -> PyErr {
    let ty = found.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyTypeError::new_err(format!("expected {wanted}, not {ty}"))
}
