//! The operation.

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, ops};

/// `log(1 + exp(sharpness * x))`, and its derivative.
#[derive(Clone, PartialEq)]
struct Softplus {
    sharpness: f32,
}

impl Softplus {
    /// The derivative of the second output: `slope * (sharpness - slope)`.
    fn curvature(&self, slope: &Array) -> Result<Array> {
        ops::multiply(slope, &ops::subtract(&Array::scalar(self.sharpness)?, slope)?)
    }
}

impl Primitive for Softplus {
    const NAME: &'static str = "softplus";

    // Shapes and dtypes of the outputs, and the place to refuse inputs: the error comes out of the
    // call that applies the operation, before anything runs.
    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [x] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "takes one array"));
        };
        if x.dtype != Dtype::Float32 {
            return Err(Error::invalid_argument(Self::NAME, format!("{} is not float32", x.dtype)));
        }
        Ok(vec![x.clone(), x.clone()])
    }

    // Runs on a thread of MLX. The input is row-contiguous, as `layout` asks for nothing else. An
    // error or a panic here fails the evaluation, and the outputs become NaN.
    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let x = inputs[0].as_slice::<f32>()?;
        let [y, slope] = outputs else { return Err(KernelError::new("has two outputs")) };
        let places = y.as_mut_slice::<f32>()?.iter_mut().zip(slope.as_mut_slice::<f32>()?);
        for ((y, slope), x) in places.zip(x) {
            let z = self.sharpness * x;
            *y = z.max(0.0) + (-z.abs()).exp().ln_1p();
            *slope = self.sharpness / (1.0 + (-z).exp());
        }
        Ok(())
    }

    // For each input in `argnums`, a cotangent of its shape. The outputs may be used.
    fn vjp(
        &self,
        _primals: &[Array],
        cotangents: &[Array],
        _argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let slope = &outputs[1];
        let of_value = ops::multiply(&cotangents[0], slope)?;
        let of_slope = ops::multiply(&cotangents[1], &self.curvature(slope)?)?;
        Ok(vec![ops::add(&of_value, &of_slope)?])
    }

    // The tangent of each output. A derivative that nobody needs is an error that says so:
    // `Error::unsupported_transform`.
    fn jvp(&self, primals: &[Array], tangents: &[Array], _argnums: &[usize]) -> Result<Vec<Array>> {
        let slope = &apply(self.clone(), &[&primals[0]])?[1];
        Ok(vec![
            ops::multiply(&tangents[0], slope)?,
            ops::multiply(&tangents[0], &self.curvature(slope)?)?,
        ])
    }

    // An element-wise operation does not care where the new dimension is.
    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Ok((apply(self.clone(), &[&inputs[0]])?, vec![axes[0]; 2]))
    }
}

/// What users call: `log(1 + exp(sharpness * x))` and its derivative.
pub fn softplus(x: &Array, sharpness: f32) -> Result<(Array, Array)> {
    let mut outputs = apply(Softplus { sharpness }, &[x])?.into_iter();
    Ok((outputs.next().expect("of two"), outputs.next().expect("of two")))
}
