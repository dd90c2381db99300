//! What a forward pass needs besides its inputs.

use std::cell::RefCell;

use mlx_graft::{Array, random};

use crate::Result;

/// Whether a forward pass trains, and the randomness of its dropout.
#[derive(Debug)]
pub struct Context {
    key: Option<RefCell<Array>>,
}

impl Context {
    /// A pass without dropout.
    pub fn eval() -> Self {
        Self { key: None }
    }

    /// A pass with dropout, drawn from `key`.
    ///
    /// The key is an input of the step and not global state, which a compiled step would freeze.
    pub fn train(key: Array) -> Self {
        Self { key: Some(RefCell::new(key)) }
    }

    /// Whether the pass is one of training.
    pub fn is_training(&self) -> bool {
        self.key.is_some()
    }

    /// A context for a part of the pass, with randomness of its own: what the part draws does not
    /// depend on what others do.
    pub(crate) fn part(&self) -> Result<Self> {
        Ok(Self { key: self.next_key()?.map(RefCell::new) })
    }

    /// What the randomness goes on from, `None` without any.
    pub(crate) fn key(&self) -> Option<Array> {
        self.key.as_ref().map(|key| key.borrow().clone())
    }

    /// A key for one dropout, `None` when there is to be none.
    pub(crate) fn next_key(&self) -> Result<Option<Array>> {
        let Some(cell) = &self.key else { return Ok(None) };
        let (next, key) = random::split(&cell.borrow())?;
        cell.replace(next);
        Ok(Some(key))
    }
}
