//! Plain Python values as JSON and back, through Python's own `json`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;

/// The JSON value of a Python object.
pub(crate) fn from_python(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    let py = object.py();
    let options = PyDict::new(py);
    // Numbers that JSON does not have, which Python would write as `NaN`.
    options.set_item("allow_nan", false)?;
    let text = py.import("json")?.call_method("dumps", (object,), Some(&options))?;
    serde_json::from_str(text.extract()?).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// The Python object of a JSON value.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (value.to_string(),))
}
