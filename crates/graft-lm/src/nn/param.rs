//! A weight that transformations can replace while they trace.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mlx_graft::Array;

use super::{Module, Visitor};

/// A weight, shared by the model and whoever trains it.
#[derive(Debug, Clone)]
pub struct Param(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    value: RefCell<Array>,
    trainable: Cell<bool>,
}

impl Param {
    /// A weight that is not trained until [`Param::set_trainable`] says so, as packed ones are.
    pub fn frozen(value: Array) -> Self {
        Self(Rc::new(Inner { value: RefCell::new(value), trainable: Cell::new(false) }))
    }

    /// A weight that is trained, as in `mlx.nn` all are that nobody froze.
    pub fn trainable(value: Array) -> Self {
        let param = Self::frozen(value);
        param.set_trainable(true);
        param
    }

    /// The value, shared.
    pub fn get(&self) -> Array {
        self.0.value.borrow().clone()
    }

    /// Whether the value is this very array.
    pub fn is(&self, value: &Array) -> bool {
        self.0.value.borrow().id() == value.id()
    }

    /// Replaces the value and returns the old one.
    pub fn set(&self, value: Array) -> Array {
        self.0.value.replace(value)
    }

    /// Whether the weight is trained.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.get()
    }

    /// Decides whether the weight is trained.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.set(trainable);
    }
}

impl Module for Param {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        visitor.param(path, self);
    }
}

/// Weights whose values are replaced as long as this lives: tracers must not stay in a model.
pub struct Swapped(Vec<(Param, Array)>);

impl Swapped {
    /// Puts `values` in the place of the values of `params`.
    pub fn new<'a>(params: impl IntoIterator<Item = &'a Param>, values: &[Array]) -> Self {
        let pairs = params.into_iter().zip(values);
        Self(pairs.map(|(param, value)| (param.clone(), param.set(value.clone()))).collect())
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        for (param, value) in self.0.drain(..) {
            param.set(value);
        }
    }
}
