//! Generation.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use graft_lm::generate::{GenerateOptions, Generated, Generation, SamplerOptions};
use graft_lm::lora::KeySequence;
use graft_lm::models::KvQuantization;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::bridge::{Owned, without_gil};
use crate::error::lm_to_py;
use crate::model::{PyModel, check_kv_size};
use crate::ops::random_state;
use crate::signals::watched;
use crate::tokenizer::PyTokenizer;

/// A token with the text that became whole by it.
#[pyclass(name = "GenerationResponse", module = "mlx_graft", frozen)]
pub(crate) struct PyGenerated(Generated);

#[pymethods]
impl PyGenerated {
    /// New text, which may be empty until a character is whole.
    #[getter]
    fn text(&self) -> &str {
        &self.0.text
    }

    /// The token.
    #[getter]
    fn token(&self) -> u32 {
        self.0.token
    }

    /// Tokens of the prompt.
    #[getter]
    fn prompt_tokens(&self) -> usize {
        self.0.prompt_tokens
    }

    /// Tokens of the prompt per second.
    #[getter]
    fn prompt_tps(&self) -> f64 {
        self.0.prompt_tps
    }

    /// Tokens generated so far.
    #[getter]
    fn generation_tokens(&self) -> u64 {
        self.0.generation_tokens
    }

    /// Tokens generated per second.
    #[getter]
    fn generation_tps(&self) -> f64 {
        self.0.generation_tps
    }

    /// `stop` or `length` on the last token.
    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.0.finish_reason.map(graft_lm::generate::FinishReason::name)
    }
}

/// The tokens that follow a prompt.
#[pyclass(name = "Generation", module = "mlx_graft._core", frozen)]
pub(crate) struct PyGeneration(Owned<RefCell<Generation>>);

#[pymethods]
impl PyGeneration {
    #[new]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (
        model, tokenizer, prompt, *, max_tokens, temp, top_p, min_p, min_tokens_to_keep,
        top_k, xtc_probability, xtc_threshold, prefill_step_size, max_kv_size, kv_bits,
        kv_group_size, quantized_kv_start, ignore_eos=false
    ))]
    fn new(
        py: Python<'_>,
        model: &PyModel,
        tokenizer: &PyTokenizer,
        prompt: Vec<u32>,
        max_tokens: i64,
        temp: f32,
        top_p: f32,
        min_p: f32,
        min_tokens_to_keep: i32,
        top_k: i32,
        xtc_probability: f32,
        xtc_threshold: f32,
        prefill_step_size: usize,
        max_kv_size: Option<i32>,
        kv_bits: Option<i32>,
        kv_group_size: i32,
        quantized_kv_start: i32,
        ignore_eos: bool,
    ) -> PyResult<Self> {
        check_kv_size(max_kv_size)?;
        if max_tokens < -1 {
            return Err(PyValueError::new_err(format!(
                "max_tokens: found {max_tokens}, wanted at least 0, or -1 for no limit"
            )));
        }
        let kv_quantization = kv_bits
            .map(|bits| KvQuantization::new(bits, kv_group_size, quantized_kv_start))
            .transpose()
            .map_err(lm_to_py)?;
        let eos_token_ids: BTreeSet<u32> = tokenizer.0.eos_token_ids().clone();
        let options = GenerateOptions {
            max_tokens: u64::try_from(max_tokens).ok(),
            sampler: SamplerOptions {
                temp,
                top_p,
                min_p,
                min_tokens_to_keep,
                top_k,
                xtc_probability,
                xtc_threshold,
            },
            prefill_step_size,
            max_kv_size,
            kv_quantization,
            eos_token_ids,
            ignore_eos,
            newline_tokens: tokenizer.0.encode("\n", false).map_err(lm_to_py)?,
        };
        let keys = KeySequence::from_state(random_state::next_key(py, None)?);
        let (model, tokenizer) = (Rc::clone(model.model()?), Arc::clone(&tokenizer.0));
        let generation =
            watched(py, |stop| Generation::new(model, tokenizer, &prompt, options, keys, stop))?;
        Ok(Self(Owned::new("generation", RefCell::new(generation))))
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyGenerated>> {
        let mut generation = self.0.get()?.borrow_mut();
        let next = without_gil(py, || generation.next());
        next.transpose().map(|token| token.map(PyGenerated)).map_err(lm_to_py)
    }
}
