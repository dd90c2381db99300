//! Added to the example's module by the tests: an operation that fails in every way it can.

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};
use mlx_graft_pyo3::{ArrayIn, ArrayOut};
use pyo3::prelude::*;

/// Its input, unless `how` says otherwise.
#[derive(Clone, PartialEq)]
struct Failing {
    how: String,
}

impl Failing {
    /// Fails where `how` says so. An index out of range is a failure with another type.
    fn check(&self, at: &str, x: &Array) -> Result<()> {
        match self.how.strip_prefix(at) {
            Some(" panic") => panic!("on purpose"),
            Some(" index") => ops::sum_axis(x, 9, false).map(drop),
            Some(" dtype") => x.to_vec::<i8>().map(drop),
            Some(_) => Err(Error::unsupported_transform(Self::NAME, at)),
            None => Ok(()),
        }
    }
}

impl Primitive for Failing {
    const NAME: &'static str = "failing";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        match self.how.as_str() {
            "specs error" => Err(Error::invalid_argument(Self::NAME, "refuses")),
            "specs panic" => panic!("on purpose"),
            _ => Ok(vec![inputs[0].clone()]),
        }
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        match self.how.as_str() {
            "kernel error" => return Err(KernelError::new("fails as planned")),
            "kernel panic" => panic!("on purpose"),
            _ => outputs[0].as_mut_slice::<f32>()?.copy_from_slice(inputs[0].as_slice::<f32>()?),
        }
        Ok(())
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        _argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        self.check("vjp", &primals[0])?;
        Ok(vec![cotangents[0].clone()])
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], _argnums: &[usize]) -> Result<Vec<Array>> {
        self.check("jvp", &primals[0])?;
        Ok(vec![tangents[0].clone()])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        self.check("vmap", &inputs[0])?;
        Ok((apply(self.clone(), &[&inputs[0]])?, vec![axes[0]]))
    }
}

#[pyfunction]
fn failing(x: ArrayIn, how: String) -> mlx_graft_pyo3::Result<ArrayOut> {
    Ok(ArrayOut(apply(Failing { how }, &[&x])?.remove(0)))
}

/// Evaluates in Rust.
#[pyfunction]
fn evaluate(x: ArrayIn) -> mlx_graft_pyo3::Result<()> {
    Ok(x.eval()?)
}

#[pymodule]
fn _failing(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(failing, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate, module)?)
}
