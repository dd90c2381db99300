//! `mlx_graft.Tokenizer`.

use std::path::PathBuf;
use std::sync::Arc;

use graft_lm::chat_template::ChatOptions;
use graft_lm::tokenizer::Tokenizer;
use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::error::lm_to_py;
use crate::json::from_python;

/// The tokenizer of a model folder, with the ids of transformers' ``AutoTokenizer``.
#[pyclass(name = "Tokenizer", module = "mlx_graft", frozen)]
pub(crate) struct PyTokenizer(pub(crate) Arc<Tokenizer>);

/// Options of transformers' `apply_chat_template` that ask for another result than text or ids.
/// Handed on, they would be mere variables of the template.
const OTHER_RESULTS: [&str; 8] = [
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_offsets_mapping",
    "return_tensors",
    "tokenizer_kwargs",
    "truncation",
];

/// What is left of the keywords of `apply_chat_template`, variables of the template.
fn template_variables(kwargs: Option<&Bound<'_, PyAny>>) -> PyResult<Map<String, Value>> {
    let Some(Value::Object(mut variables)) = kwargs.map(from_python).transpose()? else {
        return Ok(Map::new());
    };
    for name in OTHER_RESULTS {
        match variables.remove(name) {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(value) => {
                return Err(PyNotImplementedError::new_err(format!(
                    "`{name}`: found {value}; a chat template gives ids, or text with \
                     tokenize=False"
                )));
            }
        }
    }
    Ok(variables)
}

#[pymethods]
impl PyTokenizer {
    #[new]
    fn new(folder: PathBuf) -> PyResult<Self> {
        Ok(Self(Arc::new(Tokenizer::load(&folder).map_err(lm_to_py)?)))
    }

    /// Returns the ids of a text.
    #[pyo3(signature = (text, add_special_tokens=true))]
    fn encode(&self, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        self.0.encode(text, add_special_tokens).map_err(lm_to_py)
    }

    /// Returns the text of ids.
    #[pyo3(signature = (ids, skip_special_tokens=false))]
    fn decode(&self, ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        self.0.decode(&ids, skip_special_tokens).map_err(lm_to_py)
    }

    /// The text of a chat, or its ids with `tokenize`.
    #[pyo3(signature = (
        messages, tools=None, add_generation_prompt=false, tokenize=true, *,
        continue_final_message=false, chat_template=None, **kwargs
    ))]
    #[expect(clippy::too_many_arguments, reason = "those of transformers")]
    fn apply_chat_template<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        tools: Option<&Bound<'py, PyAny>>,
        add_generation_prompt: bool,
        tokenize: bool,
        continue_final_message: bool,
        chat_template: Option<String>,
        kwargs: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = ChatOptions {
            tools: tools.map(from_python).transpose()?,
            add_generation_prompt,
            continue_final_message,
            chat_template,
            variables: template_variables(kwargs)?,
        };
        let messages = from_python(messages)?;
        if tokenize {
            let ids = self.0.encode_chat(&messages, &options).map_err(lm_to_py)?;
            Ok(ids.into_pyobject(py)?.into_any())
        } else {
            let text = self.0.apply_chat_template(&messages, &options).map_err(lm_to_py)?;
            Ok(text.into_pyobject(py)?.into_any())
        }
    }

    /// The Jinja text of the chat template.
    #[getter]
    fn chat_template(&self) -> Option<&str> {
        self.0.chat_template()
    }

    /// The ids that end a text.
    #[getter]
    fn eos_token_ids(&self) -> Vec<u32> {
        self.0.eos_token_ids().iter().copied().collect()
    }

    /// The id that begins a text.
    #[getter]
    fn bos_token_id(&self) -> Option<u32> {
        self.0.bos_token_id()
    }

    /// The tokenizer's own id that ends a text.
    #[getter]
    fn eos_token_id(&self) -> Option<u32> {
        self.0.eos_token_id()
    }

    /// The id that fills up a row.
    #[getter]
    fn pad_token_id(&self) -> Option<u32> {
        self.0.pad_token_id()
    }

    /// The number of tokens, without those added to the vocabulary.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
}
