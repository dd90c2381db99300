//! MLX operations written in Rust.
//!
//! A [`Primitive`] is a node of MLX's graph whose CPU kernel and derivatives are Rust code. MLX
//! treats it like its own operations: it is lazy, runs on the stream it was applied on, and can be
//! differentiated, compiled and vectorized, from Rust and from Python.
//!
//! ```
//! use mlx_graft::primitive::{
//!     ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply,
//! };
//! use mlx_graft::{Array, Error, Result, ops};
//!
//! /// `x` times a constant.
//! #[derive(PartialEq)]
//! struct Scale(f32);
//!
//! impl Primitive for Scale {
//!     const NAME: &'static str = "scale";
//!
//!     fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
//!         Ok(vec![inputs[0].clone()])
//!     }
//!
//!     fn eval_cpu(
//!         &self,
//!         inputs: &[InputBuffer<'_>],
//!         outputs: &mut [OutputBuffer<'_>],
//!     ) -> Result<(), KernelError> {
//!         let x = inputs[0].as_slice::<f32>()?;
//!         for (y, x) in outputs[0].as_mut_slice::<f32>()?.iter_mut().zip(x) {
//!             *y = self.0 * x;
//!         }
//!         Ok(())
//!     }
//!
//!     fn vjp(
//!         &self,
//!         _primals: &[Array],
//!         cotangents: &[Array],
//!         _argnums: &[usize],
//!         _outputs: &[Array],
//!     ) -> Result<Vec<Array>> {
//!         apply(Self(self.0), &[&cotangents[0]])
//!     }
//!
//!     fn jvp(
//!         &self,
//!         _primals: &[Array],
//!         _tangents: &[Array],
//!         _argnums: &[usize],
//!     ) -> Result<Vec<Array>> {
//!         Err(Error::unsupported_transform(Self::NAME, "jvp"))
//!     }
//!
//!     fn vmap(
//!         &self,
//!         inputs: &[Array],
//!         axes: &[Option<i32>],
//!     ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
//!         Ok((apply(Self(self.0), &[&inputs[0]])?, vec![axes[0]]))
//!     }
//! }
//!
//! let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
//! let y = apply(Scale(3.0), &[&x])?;
//! assert_eq!(y[0].to_vec::<f32>()?, [3.0, 6.0]);
//! # Ok::<(), Error>(())
//! ```

/// The guide, so that its example is tested. Its file is outside of the crate's folder.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/primitives.md")]
struct Guide;

mod buffer;
mod callbacks;
mod failure;
mod row_copy;

pub use buffer::{InputBuffer, OutputBuffer, Strided};
pub use failure::KernelError;
pub(crate) use failure::kernel_error;

use crate::{Array, Dtype, Result};

/// The shape and dtype of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// The length of each dimension.
    pub shape: Vec<i32>,
    /// The dtype.
    pub dtype: Dtype,
}

impl ArraySpec {
    /// The spec of an array of `shape` and `dtype`.
    pub fn new(shape: impl Into<Vec<i32>>, dtype: Dtype) -> Self {
        Self { shape: shape.into(), dtype }
    }

    /// The spec of an existing array, which is not evaluated.
    pub fn of(array: &Array) -> Self {
        Self::new(array.shape(), array.dtype())
    }
}

/// How a kernel takes the memory of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Row-contiguous: an input in another layout is copied before the kernel sees it.
    RowContiguous,
    /// Any strides, of broadcast (0) and reversed (negative) dimensions too.
    Strided,
}

/// What a failed kernel leaves in its outputs: operations that follow in the graph still run, and
/// whoever reads an array of theirs after the failure sees what they made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// NaN, so that it shows in what is computed from it: true for `bool_`, all bits set for other
    /// integers.
    Nan,
    /// Zeros, for outputs that other operations take as an address or a length.
    Zero,
}

/// An operation of MLX's graph, written in Rust.
///
/// `PartialEq` decides whether `compile` may merge two applications on the same inputs into one: it
/// must compare every parameter that the result depends on. Applications of different types never
/// merge.
///
/// The kernel runs on a thread of MLX, hence `Send` and `Sync`; everything else runs on the thread
/// that builds the graph. A primitive cannot be exported by MLX's `export_function`.
pub trait Primitive: Send + Sync + PartialEq + 'static {
    /// The name of the operation in error messages and graph dumps.
    const NAME: &'static str;

    /// What the outputs hold after a failure of the kernel.
    const POISON: Poison = Poison::Nan;

    /// The outputs for inputs of these specs.
    ///
    /// No length is negative, and the bytes of an output can be addressed.
    ///
    /// A function compiled without shapes asks again for the shapes it is called with. The outputs
    /// may differ in lengths then, but not in number, dtypes or dimensions, or the call fails.
    ///
    /// # Errors
    /// Wrong inputs; the error comes out of [`apply`] unchanged.
    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>>;

    /// Computes the outputs, whose memory is not initialised yet, and that of an input only if
    /// [`updates`](Self::updates) says so.
    ///
    /// # Errors
    /// An error or a panic overwrites the outputs as [`POISON`](Self::POISON) says, and the
    /// evaluation that waits for them fails with [`Error::Kernel`](crate::Error::Kernel), in Python
    /// with a `RuntimeError`.
    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError>;

    /// The vector-Jacobian products: for each input in `argnums`, an array of its shape.
    ///
    /// # Errors
    /// What the operations report, or
    /// [`Error::unsupported_transform`](crate::Error::unsupported_transform).
    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>>;

    /// The Jacobian-vector product: the tangent of each output. `tangents[i]` is that of input
    /// `argnums[i]`; those of the other inputs are zero.
    ///
    /// # Errors
    /// As for [`vjp`](Self::vjp).
    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>>;

    /// The outputs for inputs that have one more dimension at `axes`, and where their own new
    /// dimension is. An input whose axis is `None` has none.
    ///
    /// # Errors
    /// As for [`vjp`](Self::vjp).
    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)>;

    /// The input that output number `output` is an update of, with its shape and dtype, if it is of
    /// one: a few elements change, or each is computed from what it was.
    ///
    /// The kernel finds the elements in [`OutputBuffer::as_updated_slice`] and none in the input. They
    /// are not copied if nothing else needs them: then the output lies where the input did, as with
    /// MLX's own operations. The answer for an output is always the same: a kernel does not run after
    /// another one, and the evaluation fails.
    fn updates(&self, output: usize) -> Option<usize> {
        let _ = output;
        None
    }

    /// How the kernel takes the memory of input number `input`.
    fn layout(&self, input: usize) -> Layout {
        let _ = input;
        Layout::RowContiguous
    }
}

/// Adds an operation to the graph, on the stream in scope, and returns its lazy outputs.
///
/// # Errors
/// That of [`Primitive::output_specs`], or what MLX reports. On a GPU stream, evaluation fails.
pub fn apply<P: Primitive>(primitive: P, inputs: &[&Array]) -> Result<Vec<Array>> {
    let inputs: Vec<Array> = inputs.iter().map(|&input| input.clone()).collect();
    callbacks::apply(primitive, &inputs)
}

/// Adds an operation whose one output is its first input, on any device: it has no kernel, and what
/// it is for are its specs, which are asked for again when a shapeless trace meets other shapes.
pub(crate) fn pass<P: Primitive>(primitive: P, inputs: &[Array]) -> Result<Array> {
    Ok(callbacks::pass(primitive, inputs)?.remove(0))
}
