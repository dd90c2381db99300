//! `mlx_graft.Dataset`: tokenized rows.

use std::path::{Path, PathBuf};

use graft_lm::data::{Dataset, DatasetOptions, Row};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::error::lm_to_py;
use crate::json::from_python;
use crate::tokenizer::PyTokenizer;

/// Tokenized rows, in the order of their file.
#[pyclass(name = "Dataset", module = "mlx_graft", frozen)]
pub(crate) struct PyDataset(pub(crate) Dataset);

fn options(options: Option<&Bound<'_, PyAny>>) -> PyResult<DatasetOptions> {
    let Some(options) = options else { return Ok(DatasetOptions::default()) };
    match from_python(options)? {
        Value::Object(map) => DatasetOptions::from_map(map).map_err(lm_to_py),
        _ => Err(PyValueError::new_err("the options of a data set are a dict")),
    }
}

/// The JSON of a row, which errors name as `Dataset::from_json` does.
fn row((index, row): (usize, Bound<'_, PyAny>)) -> PyResult<Map<String, Value>> {
    let py = row.py();
    match from_python(&row) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => {
            Err(PyValueError::new_err(format!("rows:{}: found {other}, wanted a dict", index + 1)))
        }
        Err(error) => {
            let message = format!("rows:{}: {}", index + 1, error.value(py));
            Err(match error {
                error if error.is_instance_of::<PyTypeError>(py) => PyTypeError::new_err(message),
                error if error.is_instance_of::<PyValueError>(py) => PyValueError::new_err(message),
                other => other,
            })
        }
    }
}

#[pymethods]
impl PyDataset {
    /// Reads and tokenizes a file of one JSON object per line.
    #[staticmethod]
    #[pyo3(signature = (path, tokenizer, given=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        tokenizer: &PyTokenizer,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let options = options(given)?;
        let rows = py.detach(|| Dataset::load(&path, &tokenizer.0, &options));
        rows.map(Self).map_err(lm_to_py)
    }

    /// Tokenizes a list of dicts.
    #[staticmethod]
    #[pyo3(signature = (rows, tokenizer, given=None))]
    fn from_rows(
        rows: &Bound<'_, PyAny>,
        tokenizer: &PyTokenizer,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let rows: Vec<Bound<'_, PyAny>> = rows.extract()?;
        let rows: Vec<_> = rows.into_iter().enumerate().map(row).collect::<PyResult<_>>()?;
        let options = options(given)?;
        Dataset::from_json(&rows, Path::new("rows"), &tokenizer.0, &options)
            .map(Self)
            .map_err(lm_to_py)
    }

    /// Takes rows that are tokenized already.
    #[staticmethod]
    fn from_tokens(rows: Vec<Vec<i32>>) -> PyResult<Self> {
        if let Some(i) = rows.iter().position(Vec::is_empty) {
            return Err(PyValueError::new_err(format!("row {i} has no tokens")));
        }
        // All rows sort as equals, as rows of one format do that come from JSON.
        let rows = rows.into_iter().map(|tokens| Row { tokens, offset: 0, sort_key: 0 });
        Ok(Self(Dataset::new(rows.collect(), "rows")))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The tokens of a row and how many of them are the prompt's. Rows are counted from the end if
    /// `index` is negative.
    fn __getitem__(&self, index: isize) -> PyResult<(Vec<i32>, usize)> {
        let rows = self.0.rows();
        let at = if index < 0 { index.checked_add_unsigned(rows.len()) } else { Some(index) };
        let row = at.and_then(|at| rows.get(usize::try_from(at).ok()?)).ok_or_else(|| {
            PyIndexError::new_err(format!("row {index} of a data set with {} rows", rows.len()))
        })?;
        Ok((row.tokens.clone(), row.offset))
    }
}
