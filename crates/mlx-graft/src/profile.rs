//! What an evaluation does, operation by operation: what each reads and writes, and how long it
//! takes.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::time::Duration;

use crate::call::{owned_text, slice_of};
use crate::{Array, Dtype, Error, Result, VectorArray, call, error, sys};

const OP: &str = "profile";

/// How operations are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// In an evaluation as any other, by notes of the time that the thread of the stream takes
    /// between them: on the CPU only.
    Together,
    /// Each evaluated alone, on any device, inputs before outputs: the time includes that of
    /// starting the operation and of waiting for it.
    Apart,
}

/// What an operation reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// The length of each dimension.
    pub shape: Vec<i32>,
    /// The dtype.
    pub dtype: Dtype,
    /// The identity of the memory it lies in, which views of it share; 0 without memory. Memory
    /// that was freed may come back under the same identity.
    pub buffer: usize,
    /// The bytes of that memory.
    pub buffer_bytes: usize,
    /// The bytes of its own elements; those of a broadcast dimension count once.
    pub bytes: usize,
    /// Whether an array that was asked for lies in that memory, after the evaluation.
    pub kept: bool,
}

/// An operation that was evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The name of MLX's primitive, or of one written in Rust.
    pub name: String,
    /// What it read.
    pub inputs: Vec<Operand>,
    /// What it wrote.
    pub outputs: Vec<Operand>,
    /// When it started, from the start of the evaluation.
    pub start: Duration,
    /// When it had ended.
    pub end: Duration,
}

/// What an evaluation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its operations, in the order in which they were started.
    pub operations: Vec<Operation>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Operation {
    /// How long it took.
    pub fn elapsed(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// Computes the arrays as [`transforms::eval`](crate::transforms::eval), and says what was done.
///
/// What is computed already is no operation of the profile.
///
/// # Errors
/// [`Timing::Together`] on a GPU, arrays of a function that is being transformed, or what MLX
/// reports.
///
/// ```
/// use mlx_graft::profile::{self, Timing};
/// use mlx_graft::{Array, ops};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// let y = ops::exp(&ops::square(&x)?)?;
/// let profile = profile::eval(&[&y], Timing::Apart)?;
/// let names: Vec<&str> = profile.operations.iter().map(|op| op.name.as_str()).collect();
/// assert_eq!(names, ["Square", "Exp"]);
/// assert!(profile.operations[1].start >= profile.operations[0].end);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn eval<A: AsRef<Array>>(arrays: &[A], timing: Timing) -> Result<Profile> {
    let list = VectorArray::from_arrays(arrays)?;
    let mut operations: Vec<Operation> = Vec::new();
    let mut nanoseconds = 0;
    call::status(OP, || {
        // SAFETY: the list is live; the callback matches its payload, and is called on this thread
        // before the call returns.
        unsafe {
            sys::graft_profile_eval(
                &raw mut nanoseconds,
                Some(collect),
                (&raw mut operations).cast(),
                list.as_raw(),
                timing == Timing::Apart,
            )
        }
    })?;
    Ok(Profile { operations, elapsed: duration(nanoseconds) })
}

extern "C" fn collect(event: *const sys::graft_profile_operation, payload: *mut c_void) -> c_int {
    error::guarded(|| {
        // SAFETY: C++ passes a live event, and the payload of `eval`, which nobody else uses
        // meanwhile.
        let (event, operations) = unsafe { (&*event, &mut *payload.cast::<Vec<Operation>>()) };
        // SAFETY: all that the event points to is live.
        operations.push(unsafe { operation(event) }?);
        Ok(())
    })
}

/// # Safety
/// All that the event points to is live.
unsafe fn operation(event: &sys::graft_profile_operation) -> Result<Operation> {
    // SAFETY: the caller says so.
    let (name, inputs, outputs) = unsafe {
        (
            owned_text(event.name),
            slice_of(event.inputs, event.num_inputs),
            slice_of(event.outputs, event.num_outputs),
        )
    };
    let operands = |arrays: &[sys::graft_profile_array]| -> Result<Vec<Operand>> {
        // SAFETY: as above.
        arrays.iter().map(|array| unsafe { operand(array) }).collect()
    };
    Ok(Operation {
        name,
        inputs: operands(inputs)?,
        outputs: operands(outputs)?,
        start: duration(event.start),
        end: duration(event.end),
    })
}

/// # Safety
/// The shape is live.
unsafe fn operand(array: &sys::graft_profile_array) -> Result<Operand> {
    let dtype = Dtype::from_raw(array.dtype)
        .ok_or_else(|| Error::invalid_argument(OP, format!("unknown dtype {}", array.dtype)))?;
    Ok(Operand {
        // SAFETY: the caller says so.
        shape: unsafe { slice_of(array.shape, array.ndim) }.to_vec(),
        dtype,
        buffer: array.buffer,
        buffer_bytes: array.buffer_bytes,
        bytes: array.bytes,
        kept: array.kept,
    })
}

fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
