//! Functions with rules of their own for transformations.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::ptr::null_mut;
use std::rc::Rc;

use super::autodiff::some;
use crate::closure::{CustomJvp, CustomVjp, CustomVmap};
use crate::primitive::ArraySpec;
use crate::{Array, Closure, Error, Result, ops, sys};

type Function = dyn Fn(&[Array]) -> Result<Vec<Array>>;
type Vjp = dyn Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>;
type Jvp = dyn Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>>;
type Vmap = dyn Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)>;
/// What the function returned, which its rules are held to.
type Outputs = Rc<OnceCell<Vec<ArraySpec>>>;

/// A function whose derivatives and vectorised form are given by rules.
///
/// A rule that is not given is found by transforming the function. The function is pure: arrays
/// that it captures are constants, without a gradient.
///
/// ```
/// use mlx_graft::transforms::{self, CustomFunction};
/// use mlx_graft::{Array, ops};
///
/// // A step has no gradient; this one has that of the line through it.
/// let step = CustomFunction::new(|x| Ok(vec![ops::sign(&x[0])?]))
///     .vjp(|_x, dy, _y| Ok(vec![dy[0].clone()]))
///     .vmap(|x, axes| Ok((vec![ops::sign(&x[0])?], vec![axes[0]])));
/// let f = move |x: &[Array]| Ok(vec![ops::sum(&step.call(x)?[0], false)?]);
/// let x = Array::from_slice(&[-2.0_f32, 3.0], &[2])?;
/// let (y, dx) = transforms::value_and_grad(f, &[0], &[x])?;
/// assert_eq!(y[0].item::<f32>()?, 0.0);
/// assert_eq!(dx[0].to_vec::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[derive(Clone)]
pub struct CustomFunction {
    function: Rc<Function>,
    vjp: Option<Rc<Vjp>>,
    jvp: Option<Rc<Jvp>>,
    vmap: Option<Rc<Vmap>>,
}

impl CustomFunction {
    /// A function without rules yet.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        Self { function: Rc::new(f), vjp: None, jvp: None, vmap: None }
    }

    /// Sets the rule for vector-Jacobian products: of the inputs, the cotangents and the outputs,
    /// it returns one product for each input, of that input's shape; its dtype follows.
    #[must_use]
    pub fn vjp<F>(mut self, rule: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
    {
        self.vjp = Some(Rc::new(rule));
        self
    }

    /// Sets the rule for Jacobian-vector products: of the inputs, the tangents of some of them and
    /// the numbers of these, it returns one product for each output, of that output's shape; its
    /// dtype follows.
    #[must_use]
    pub fn jvp<F>(mut self, rule: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>> + 'static,
    {
        self.jvp = Some(Rc::new(rule));
        self
    }

    /// Sets the rule for vectorisation: of the batched inputs and their axes (`None` for an input
    /// that all items share), it returns the batched outputs and their axes. Without its axis, an
    /// output has the shape and dtype that the function's own has.
    #[must_use]
    pub fn vmap<F>(mut self, rule: F) -> Self
    where
        F: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
    {
        self.vmap = Some(Rc::new(rule));
        self
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own error, [`ErrorKind::InvalidArgument`](crate::ErrorKind) if it has rules
    /// and returns no array, or what MLX reports. A rule that fails, or returns other arrays than it
    /// must, fails the transformation that uses it.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        const OP: &str = "custom_function";
        let has_rules = self.vjp.is_some() || self.jvp.is_some() || self.vmap.is_some();
        // MLX takes what the rules return at its word, and indexes memory by it.
        let returned = Outputs::default();
        let function = {
            let (function, returned) = (self.function.clone(), returned.clone());
            Closure::new(move |inputs| {
                let outputs = function(inputs)?;
                returned.get_or_init(|| outputs.iter().map(ArraySpec::of).collect());
                if has_rules { some(OP, outputs) } else { Ok(outputs) }
            })
        };
        if !has_rules {
            return function.call(inputs);
        }
        let vjp = self.vjp.clone().map(checked_vjp);
        let jvp = self.jvp.clone().map(|rule| checked_jvp(rule, returned.clone()));
        let vmap = self.vmap.clone().map(|rule| checked_vmap(rule, returned.clone()));
        let custom = match (&vjp, &jvp, &vmap) {
            (Some(vjp), None, None) => with_vjp(&function, vjp)?,
            _ => Closure::derived(OP, |res| {
                let none = null_mut();
                // SAFETY: the closures are live, null ones stand for rules not given, and MLX keeps
                // its own copies.
                unsafe {
                    sys::mlx_custom_function(
                        res,
                        function.as_raw(),
                        vjp.as_ref()
                            .map_or(sys::mlx_closure_custom { ctx: none }, CustomVjp::as_raw),
                        jvp.as_ref()
                            .map_or(sys::mlx_closure_custom_jvp { ctx: none }, CustomJvp::as_raw),
                        vmap.as_ref()
                            .map_or(sys::mlx_closure_custom_vmap { ctx: none }, CustomVmap::as_raw),
                    )
                }
            })?,
        };
        custom.call(inputs)
    }
}

/// `f` with a rule for its vector-Jacobian products, as [`CustomFunction::vjp`] takes it.
///
/// # Errors
/// What MLX reports. The function returned fails as [`CustomFunction::call`].
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let identity = |x: &[Array]| Ok(x.to_vec());
/// let reversed = transforms::custom_vjp(identity, |_x, dy, _y| Ok(vec![ops::negative(&dy[0])?]))?;
/// let x = Array::scalar(3.0_f32)?;
/// let grads = transforms::grad(move |x| reversed.call(x), &[0], &[x])?;
/// assert_eq!(grads[0].item::<f32>()?, -1.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn custom_vjp<F, V>(f: F, rule: V) -> Result<Closure>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    V: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
{
    let function = Closure::new(move |inputs| some("custom_vjp", f(inputs)?));
    with_vjp(&function, &checked_vjp(Rc::new(rule)))
}

fn with_vjp(function: &Closure, rule: &CustomVjp) -> Result<Closure> {
    Closure::derived("custom_vjp", |res| {
        // SAFETY: both closures are live, and MLX keeps its own copies.
        unsafe { sys::mlx_custom_vjp(res, function.as_raw(), rule.as_raw()) }
    })
}

fn checked_vjp(rule: Rc<Vjp>) -> CustomVjp {
    CustomVjp::new(move |primals, cotangents, outputs| {
        let products = rule(primals, cotangents, outputs)?;
        count("vjp", "product for each input", products.len(), primals.len())?;
        let inputs = primals.iter().map(ArraySpec::of);
        products.into_iter().zip(inputs).map(|(found, input)| like("vjp", found, &input)).collect()
    })
}

fn checked_jvp(rule: Rc<Jvp>, returned: Outputs) -> CustomJvp {
    CustomJvp::new(move |primals, tangents, argnums| {
        let products = rule(primals, tangents, argnums)?;
        let outputs = returned.get().map_or(&[][..], Vec::as_slice);
        count("jvp", "product for each output", products.len(), outputs.len())?;
        products
            .into_iter()
            .zip(outputs)
            .map(|(found, output)| like("jvp", found, output))
            .collect()
    })
}

fn checked_vmap(rule: Rc<Vmap>, returned: Outputs) -> CustomVmap {
    CustomVmap::new(move |inputs, axes| {
        let batch = inputs.iter().zip(axes).find_map(|(x, axis)| axis.map(|axis| x.dim(axis)));
        let batch = batch.transpose()?;
        let (found, axes) = rule(inputs, axes)?;
        let outputs = returned.get().map_or(&[][..], Vec::as_slice);
        count("vmap", "output for each of the function", found.len(), outputs.len())?;
        count("vmap", "axis for each output", axes.len(), found.len())?;
        for ((found, axis), output) in found.iter().zip(&axes).zip(outputs) {
            let mut wanted = output.shape.clone();
            if let Some((axis, batch)) = axis.zip(batch) {
                let place = usize::try_from(axis).ok().filter(|&place| place <= wanted.len());
                let place = place.ok_or_else(|| {
                    let shape = found.shape();
                    wrong("vmap", &format!("gives {axis} as the axis of an output of {shape:?}"))
                })?;
                wanted.insert(place, batch);
            }
            if found.shape() != wanted || found.dtype() != output.dtype {
                let (shape, dtype) = (found.shape(), found.dtype());
                return Err(wrong(
                    "vmap",
                    &format!("returns {dtype} {shape:?} instead of {} {wanted:?}", output.dtype),
                ));
            }
        }
        Ok((found, axes))
    })
}

/// A product of a rule, which has the shape that it must, in the dtype that it must have.
fn like(rule: &str, found: Array, wanted: &ArraySpec) -> Result<Array> {
    if found.shape() != wanted.shape {
        let text = format!("returns shape {:?} instead of {:?}", found.shape(), wanted.shape);
        return Err(wrong(rule, &text));
    }
    if found.dtype() == wanted.dtype { Ok(found) } else { ops::astype(&found, wanted.dtype) }
}

fn wrong(rule: &str, what: &str) -> Error {
    Error::invalid_argument("custom_function", format!("the rule for {rule} {what}"))
}

fn count(rule: &str, what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(wrong(rule, &format!("returns one {what}: {wanted} arrays, not {found}")))
}
