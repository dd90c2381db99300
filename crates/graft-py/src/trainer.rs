//! `mlx_graft.Trainer`.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use graft_lm::Error;
use graft_lm::args::TrainArgs;
use graft_lm::command::{check_tokens, refuse_many_processes, training_state};
use graft_lm::progress::{Reporter, Silent, TrainReport, ValReport, default_reporter};
use graft_lm::trainer::{Hooks, Reached, Saver, Trainer};
use mlx_graft::{Array, Dtype, ops};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde_json::{Map, Value};

use crate::bridge::{In, Out, Owned, without_gil};
use crate::data::PyDataset;
use crate::error::{lm_to_py, to_py};
use crate::json::from_python;
use crate::model::PyModel;
use crate::signals::watched;

/// Trains the trainable parameters of a model.
#[pyclass(name = "Trainer", module = "mlx_graft._core", frozen)]
pub(crate) struct PyTrainer {
    inner: Owned<Inner>,
    model: Py<PyModel>,
}

/// The trainer, and what callbacks of a training may use of it.
struct Inner {
    trainer: RefCell<Trainer>,
    saver: Saver,
    reached: Rc<Reached>,
}

/// Passes the trainer's events on to Python callbacks, and watches for Ctrl-C.
struct Callbacks<'a> {
    inner: Box<dyn Reporter + Send>,
    listeners: &'a Py<PyList>,
    /// The first exception of a callback or a signal, which ends the training.
    failure: &'a RefCell<Option<PyErr>>,
}

impl Callbacks<'_> {
    fn call(&mut self, method: &str, fill: impl Fn(&Bound<'_, PyDict>) -> PyResult<()>) {
        if self.failure.borrow().is_some() {
            return;
        }
        let done = Python::attach(|py| {
            for callback in self.listeners.bind(py) {
                if let Some(method) = callback.getattr_opt(method)? {
                    let info = PyDict::new(py);
                    fill(&info)?;
                    method.call1((info,))?;
                }
            }
            Ok(())
        });
        if let Err(failure) = done {
            self.failure.borrow_mut().get_or_insert(failure);
        }
    }
}

impl Reporter for Callbacks<'_> {
    fn start(&mut self, iters: u64, done: u64) {
        self.inner.start(iters, done);
    }

    fn advance(&mut self) {
        self.inner.advance();
    }

    fn train(&mut self, report: &TrainReport) {
        self.inner.train(report);
        // The keys of mlx-lm's `TrainingCallback`.
        self.call("on_train_loss_report", |info| {
            info.set_item("iteration", report.iteration)?;
            info.set_item("train_loss", report.train_loss)?;
            info.set_item("learning_rate", report.learning_rate)?;
            info.set_item("iterations_per_second", report.iterations_per_second)?;
            info.set_item("tokens_per_second", report.tokens_per_second)?;
            info.set_item("trained_tokens", report.trained_tokens)?;
            info.set_item("peak_memory", report.peak_memory_bytes as f64 / 1e9)
        });
    }

    fn val_start(&mut self, batches: u64) {
        self.inner.val_start(batches);
    }

    fn val_advance(&mut self) {
        self.inner.val_advance();
    }

    fn val(&mut self, report: &ValReport) {
        self.inner.val(report);
        self.call("on_val_loss_report", |info| {
            // As mlx-lm counts there: the iterations before the validation.
            info.set_item("iteration", report.iteration - 1)?;
            info.set_item("val_loss", report.val_loss)?;
            info.set_item("val_time", report.seconds)
        });
    }

    fn save(&mut self, path: &Path) {
        self.inner.save(path);
    }

    fn message(&mut self, text: &str) {
        self.inner.message(text);
    }

    fn warning(&mut self, text: &str) {
        self.inner.warning(text);
    }

    fn done(&mut self) {
        self.inner.done();
    }
}

/// The options, and those of them that were given.
fn train_args(options: &Bound<'_, PyAny>) -> PyResult<(TrainArgs, Map<String, Value>)> {
    match from_python(options)? {
        Value::Object(map) => {
            TrainArgs::from_map(map.clone()).map(|args| (args, map)).map_err(lm_to_py)
        }
        _ => Err(PyValueError::new_err("the options of a trainer are a dict")),
    }
}

/// Fails if an option of training is wrong.
#[pyfunction]
pub(crate) fn check_options(options: &Bound<'_, PyAny>) -> PyResult<()> {
    train_args(options).map(drop)
}

impl PyTrainer {
    fn locked(&self) -> PyResult<std::cell::RefMut<'_, Trainer>> {
        self.inner.get()?.trainer.try_borrow_mut().map_err(|_| {
            PyRuntimeError::new_err("the trainer is in use: a callback cannot train or evaluate")
        })
    }
}

#[pymethods]
impl PyTrainer {
    /// Prepares to train `model`; `options` is a dict of `mlx_lm.lora`'s keys.
    #[new]
    fn new(py: Python<'_>, model: Py<PyModel>, options: &Bound<'_, PyAny>) -> PyResult<Self> {
        refuse_many_processes().map_err(lm_to_py)?;
        let (args, given) = train_args(options)?;
        let rc = Rc::clone(model.get().model()?);
        let mut trainer = without_gil(py, || Trainer::new(rc, args)).map_err(lm_to_py)?;
        trainer.tell_only(|key| given.contains_key(key));
        let (saver, reached) = (trainer.saver().clone(), trainer.reached());
        let inner = Inner { trainer: RefCell::new(trainer), saver, reached };
        Ok(Self { inner: Owned::new("trainer", inner), model })
    }

    /// Trains on one batch and returns its loss before the update.
    fn step(&self, py: Python<'_>, tokens: In, lengths: In) -> PyResult<Out> {
        let (tokens, lengths) = batch(&tokens, &lengths)?;
        let mut trainer = self.locked()?;
        let done = without_gil(py, || trainer.step(&tokens, &lengths));
        done.map(|(loss, _)| Out(loss)).map_err(lm_to_py)
    }

    /// The mean loss per token over a data set.
    fn evaluate(&self, py: Python<'_>, data: &PyDataset, num_batches: i64) -> PyResult<f64> {
        if num_batches < -1 || num_batches == 0 {
            return Err(PyValueError::new_err(format!(
                "num_batches: found {num_batches}, wanted -1 for all, or at least 1"
            )));
        }
        let mut trainer = self.locked()?;
        check_tokens(&data.0, self.model.get().model()?).map_err(lm_to_py)?;
        let limit = u64::try_from(num_batches).ok();
        watched(py, |stop| trainer.evaluate(&data.0, limit, &mut Silent, stop))
    }

    /// Trains for the configured number of iterations.
    #[pyo3(signature = (train, valid, callbacks, folder, resume))]
    fn fit(
        &self,
        py: Python<'_>,
        train: &PyDataset,
        valid: Option<&PyDataset>,
        callbacks: Py<PyList>,
        folder: Option<PathBuf>,
        resume: bool,
    ) -> PyResult<()> {
        let mut trainer = self.locked()?;
        let valid = valid.map(|valid| &valid.0);
        for data in [Some(&train.0), valid].into_iter().flatten() {
            check_tokens(data, self.model.get().model()?).map_err(lm_to_py)?;
        }
        let mut inner = default_reporter();
        let state = match folder.as_deref().filter(|_| resume) {
            Some(folder) => training_state(folder, &mut *inner).map_err(lm_to_py)?,
            None => None,
        };
        trainer.check(&train.0, valid, state.as_ref()).map_err(lm_to_py)?;
        if let Some(folder) = &folder {
            fs::create_dir_all(folder).map_err(Error::io(folder)).map_err(lm_to_py)?;
        }
        let failure = RefCell::new(None);
        let mut reporter = Callbacks { inner, listeners: &callbacks, failure: &failure };
        let done = without_gil(py, || {
            let mut stop = || {
                if let Some(signal) = Python::attach(|py| py.check_signals().err()) {
                    failure.borrow_mut().get_or_insert(signal);
                }
                failure.borrow().is_some()
            };
            let hooks =
                Hooks { reporter: &mut reporter, interrupted: &mut stop, folder, resume: state };
            trainer.fit(&train.0, valid, hooks)
        });
        match failure.take() {
            // Our message says what was saved; other exceptions come out as they are.
            Some(failure) if !failure.is_instance_of::<PyKeyboardInterrupt>(py) => Err(failure),
            _ => done.map_err(lm_to_py),
        }
    }

    /// Writes the trained weights and their configuration to a folder.
    fn save(&self, folder: PathBuf) -> PyResult<()> {
        self.inner.get()?.saver.save(&folder).map(drop).map_err(lm_to_py)
    }

    /// The learning rate of the next update.
    #[getter]
    fn learning_rate(&self) -> PyResult<f32> {
        Ok(self.inner.get()?.reached.learning_rate.get())
    }

    /// The number of batches trained on.
    #[getter]
    fn step_count(&self) -> PyResult<u64> {
        Ok(self.inner.get()?.reached.batches.get())
    }
}

/// Checks a batch: tokens int32 `(B, T)`; lengths `(B,)`, or `(B, 2)` with the first token that
/// counts. Returns lengths of shape `(B, 2)`.
fn batch(tokens: &Array, lengths: &Array) -> PyResult<(Array, Array)> {
    let whole = |x: &Array| matches!(x.dtype(), Dtype::Int32 | Dtype::Uint32 | Dtype::Int64);
    let (&[rows, length], true) = (tokens.shape(), whole(tokens)) else {
        return Err(PyValueError::new_err(format!(
            "tokens are {} of shape {:?}, wanted int32 of shape (batch, length)",
            tokens.dtype(),
            tokens.shape()
        )));
    };
    if length < 2 {
        return Err(PyValueError::new_err("tokens need at least two columns: inputs and targets"));
    }
    let int32 = |x: &Array| {
        if x.dtype() == Dtype::Int32 { Ok(x.clone()) } else { ops::astype(x, Dtype::Int32) }
    };
    let tokens = int32(tokens).map_err(to_py)?;
    let lengths = match lengths.shape() {
        &[n] if n == rows && whole(lengths) => {
            let ends = ops::expand_dims(&int32(lengths).map_err(to_py)?, 1).map_err(to_py)?;
            let starts = ops::zeros_like(&ends).map_err(to_py)?;
            ops::concatenate_axis(&[&starts, &ends], 1).map_err(to_py)?
        }
        &[n, 2] if n == rows && whole(lengths) => int32(lengths).map_err(to_py)?,
        shape => {
            return Err(PyValueError::new_err(format!(
                "lengths are {} of shape {shape:?}, wanted int32 of shape ({rows},) or ({rows}, 2)",
                lengths.dtype()
            )));
        }
    };
    Ok((tokens, lengths))
}
