//! `mlx_graft.Model`.

use std::path::PathBuf;
use std::rc::Rc;

use graft_lm::adapter_config::AdapterConfig;
use graft_lm::adapters;
use graft_lm::args::{FineTuneType, LoraParameters};
use graft_lm::lora::KeySequence;
use graft_lm::models::{Cache, Model};
use graft_lm::nn::{Context, Module, Param};
use mlx_graft::Array;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::bridge::{In, Out, Owned, without_gil};
use crate::error::lm_to_py;
use crate::ops::random_state;
use crate::{json, tree};

/// A language model, loaded from a Hugging Face folder.
#[pyclass(name = "Model", module = "mlx_graft", frozen)]
pub(crate) struct PyModel(Owned<Rc<Model>>);

impl PyModel {
    pub(crate) fn model(&self) -> PyResult<&Rc<Model>> {
        self.0.get()
    }

    fn named(&self, trainable: bool) -> PyResult<Vec<(String, Param)>> {
        let params = self.model()?.decoder.params().into_iter();
        Ok(params.filter(|(_, param)| !trainable || param.is_trainable()).collect())
    }
}

fn values(params: Vec<(String, Param)>) -> impl Iterator<Item = (String, Array)> {
    params.into_iter().map(|(name, param)| (name, param.get()))
}

/// Fails if a cache could not hold a token.
pub(crate) fn check_kv_size(max_kv_size: Option<i32>) -> PyResult<()> {
    match max_kv_size.filter(|&size| size < 1) {
        Some(size) => Err(PyValueError::new_err(format!(
            "max_kv_size: found {size}, wanted at least 1, or None for no limit"
        ))),
        None => Ok(()),
    }
}

#[pymethods]
impl PyModel {
    #[new]
    fn new(py: Python<'_>, folder: PathBuf) -> PyResult<Self> {
        let model = without_gil(py, || Model::load(&folder)).map_err(lm_to_py)?;
        Ok(Self(Owned::new("model", Rc::new(model))))
    }

    #[pyo3(signature = (tokens, cache=None))]
    fn __call__(&self, tokens: In, cache: Option<&PyCache>) -> PyResult<Out> {
        let model = self.model()?;
        if tokens.ndim() != 2 {
            return Err(PyValueError::new_err(format!(
                "tokens have shape {:?}, wanted (batch, length)",
                tokens.shape()
            )));
        }
        let ctx = Context::eval();
        let logits = match cache {
            None => model.decoder.forward(&tokens, None, &ctx),
            Some(cache) => {
                let mut layers = cache.0.get()?.borrow_mut();
                if layers.len() != model.decoder.num_layers() {
                    return Err(PyValueError::new_err(format!(
                        "the cache is of a model with {} layers, this one has {}",
                        layers.len(),
                        model.decoder.num_layers()
                    )));
                }
                model.decoder.forward(&tokens, Some(&mut layers), &ctx)
            }
        };
        logits.map(Out).map_err(lm_to_py)
    }

    /// Keys and values of no tokens yet, for calls that go on from each other.
    #[pyo3(signature = (max_kv_size=None))]
    fn make_cache(&self, max_kv_size: Option<i32>) -> PyResult<PyCache> {
        check_kv_size(max_kv_size)?;
        let layers = self.model()?.decoder.make_cache(max_kv_size);
        Ok(PyCache(Owned::new("cache", std::cell::RefCell::new(layers))))
    }

    /// Returns all parameters in nested dicts and lists, as `mlx.nn.Module.parameters`.
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        tree::nested(py, values(self.named(false)?))
    }

    /// Returns the trainable parameters in nested dicts and lists.
    fn trainable_parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        tree::nested(py, values(self.named(true)?))
    }

    /// Replaces parameters by those of a nested dict, which may hold a part of them.
    fn update(&self, parameters: &Bound<'_, PyAny>) -> PyResult<()> {
        let params: std::collections::BTreeMap<_, _> = self.named(false)?.into_iter().collect();
        let given = tree::flat(parameters)?;
        for (name, array) in &given {
            let param = params.get(name).ok_or_else(|| {
                PyValueError::new_err(format!("the model has no parameter {name:?}"))
            })?;
            let (found, wanted) = (array.shape(), param.get());
            if found != wanted.shape() {
                return Err(PyValueError::new_err(format!(
                    "parameter {name:?} has shape {found:?}, wanted {:?}",
                    wanted.shape()
                )));
            }
        }
        for (name, array) in given {
            params[&name].set(array);
        }
        Ok(())
    }

    /// Makes every parameter frozen.
    fn freeze(&self) -> PyResult<()> {
        self.named(false)?.iter().for_each(|(_, param)| param.set_trainable(false));
        Ok(())
    }

    /// Makes every floating-point parameter trainable; packed ones stay frozen.
    fn unfreeze(&self) -> PyResult<()> {
        for (name, param) in self.named(false)? {
            let packed = name.ends_with(".scales") || name.ends_with(".biases");
            param.set_trainable(param.get().dtype().is_floating() && !packed);
        }
        Ok(())
    }

    /// The parameters of each block.
    #[getter]
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let decoder = &self.model()?.decoder;
        (0..decoder.num_layers())
            .map(|i| tree::nested(py, values(decoder.layer(i).params())))
            .collect()
    }

    /// The number of blocks.
    #[getter]
    fn num_layers(&self) -> PyResult<usize> {
        Ok(self.model()?.decoder.num_layers())
    }

    /// The number of tokens that the model knows.
    #[getter]
    fn vocab_size(&self) -> PyResult<i32> {
        Ok(self.model()?.decoder.vocab_size())
    }

    /// The architecture, as in config.json.
    #[getter]
    fn model_type(&self) -> PyResult<&str> {
        Ok(self.model()?.model_type())
    }

    /// The content of config.json.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, &self.model()?.config)
    }

    /// Adds low-rank adapters that start from the state of `mx.random`, which moves on.
    fn apply_lora(
        &self,
        py: Python<'_>,
        rank: usize,
        scale: f64,
        dropout: f64,
        keys: Option<Vec<String>>,
        num_layers: i64,
    ) -> PyResult<()> {
        if rank == 0 || !(0.0..1.0).contains(&dropout) {
            return Err(PyValueError::new_err(format!(
                "rank: found {rank}, wanted at least 1; dropout: found {dropout}, wanted from 0 to \
                 below 1"
            )));
        }
        let parameters = LoraParameters { rank, dropout, scale, keys };
        let state: In = random_state::key(py)?.extract()?;
        let mut sequence = KeySequence::from_state(state.into_array());
        adapters::prepare(
            self.model()?,
            FineTuneType::Lora,
            &parameters,
            num_layers,
            &mut sequence,
        )
        .map_err(lm_to_py)?;
        random_state::set_key(py, sequence.into_state())
    }

    /// Adds the adapters of a folder, ours or mlx-lm's.
    fn load_adapters(&self, folder: PathBuf) -> PyResult<()> {
        adapters::load_adapters(self.model()?, &folder).map_err(lm_to_py)
    }

    /// Writes the trainable parameters and how they were made, as mlx-lm reads them.
    fn save_adapters(&self, folder: PathBuf) -> PyResult<()> {
        let model = self.model()?;
        let config = model.adapters.borrow().clone().unwrap_or_else(AdapterConfig::full);
        adapters::save_adapters(&model.decoder, &config, &folder).map_err(lm_to_py)?;
        Ok(())
    }

    /// Writes all weights and config.json to a folder.
    fn save_weights(&self, folder: PathBuf) -> PyResult<()> {
        adapters::save_model(self.model()?, &folder).map_err(lm_to_py)
    }

    fn __repr__(&self) -> PyResult<String> {
        let model = self.model()?;
        Ok(format!("Model({:?}, layers={})", model.model_type(), model.decoder.num_layers()))
    }
}

/// The keys and values of the tokens so far, of a model.
#[pyclass(name = "KVCache", module = "mlx_graft", frozen)]
pub(crate) struct PyCache(Owned<std::cell::RefCell<Vec<Cache>>>);

#[pymethods]
impl PyCache {
    /// The number of tokens processed, those that a bounded cache has forgotten included.
    #[getter]
    fn offset(&self) -> PyResult<i32> {
        Ok(self.0.get()?.borrow().first().map_or(0, Cache::offset))
    }
}
