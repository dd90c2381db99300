//! A weight that transformations can replace while they trace.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use mlx_graft::Array;

use super::{Module, Visitor};

/// A weight, shared by the model and whoever trains it.
#[derive(Debug, Clone)]
pub struct Param(Rc<Inner>);

/// What makes the values of weights when they are asked for.
pub trait Source {
    /// The value of weight number `index`.
    fn value(&self, index: usize) -> Array;
}

#[derive(Clone)]
enum Value {
    Array(Array),
    /// That of a source with this number.
    From(Rc<dyn Source>, usize),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(array) => array.fmt(f),
            Self::From(_, index) => write!(f, "weight {index} of a source"),
        }
    }
}

#[derive(Debug)]
struct Inner {
    value: RefCell<Value>,
    trainable: Cell<bool>,
}

impl Param {
    /// A weight that is not trained until [`Param::set_trainable`] says so, as packed ones are.
    pub fn frozen(value: Array) -> Self {
        let value = RefCell::new(Value::Array(value));
        Self(Rc::new(Inner { value, trainable: Cell::new(false) }))
    }

    /// A weight that is trained, as in `mlx.nn` all are that nobody froze.
    pub fn trainable(value: Array) -> Self {
        let param = Self::frozen(value);
        param.set_trainable(true);
        param
    }

    /// The value, shared.
    pub fn get(&self) -> Array {
        // The borrow ends before the source is asked, which is anybody's code.
        let value = self.0.value.borrow().clone();
        match value {
            Value::Array(array) => array,
            Value::From(source, index) => source.value(index),
        }
    }

    /// Whether the value is this very array.
    pub fn is(&self, value: &Array) -> bool {
        matches!(&*self.0.value.borrow(), Value::Array(array) if array.id() == value.id())
    }

    /// Whether the value is one of this source's.
    pub fn is_from(&self, source: &Rc<dyn Source>) -> bool {
        matches!(&*self.0.value.borrow(), Value::From(other, _) if Rc::ptr_eq(other, source))
    }

    /// Replaces the value.
    pub fn set(&self, value: Array) {
        self.0.value.replace(Value::Array(value));
    }

    /// Replaces the value by that of a source with this number.
    pub fn set_from(&self, source: Rc<dyn Source>, index: usize) {
        self.0.value.replace(Value::From(source, index));
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
pub struct Swapped(Vec<(Param, Value)>);

impl Swapped {
    /// Puts `values` in the place of the values of `params`.
    pub fn new<'a>(params: impl IntoIterator<Item = &'a Param>, values: &[Array]) -> Self {
        let pairs = params.into_iter().zip(values);
        let swap = |(param, value): (&Param, &Array)| {
            (param.clone(), param.0.value.replace(Value::Array(value.clone())))
        };
        Self(pairs.map(swap).collect())
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        for (param, value) in self.0.drain(..) {
            param.0.value.replace(value);
        }
    }
}
