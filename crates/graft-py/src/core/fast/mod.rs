//! The functions of `mlx_graft.core.fast` that are no operations.

mod kernel;

use pyo3::prelude::*;

/// Adds the functions of all concepts to `fast`.
pub(super) fn register(fast: &Bound<'_, PyModule>) -> PyResult<()> {
    kernel::register(fast)
}
