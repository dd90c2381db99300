//! Functions with rules of their own for transformations.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::ptr::null_mut;
use std::rc::Rc;

use super::autodiff::some;
use crate::closure::{CustomJvp, CustomVjp, CustomVmap};
use crate::{Array, Closure, Error, Result, sys};

type Function = dyn Fn(&[Array]) -> Result<Vec<Array>>;
type Vjp = dyn Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>;
type Jvp = dyn Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>>;
type Vmap = dyn Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)>;

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
    /// it returns one product for each input, of that input's shape.
    #[must_use]
    pub fn vjp<F>(mut self, rule: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
    {
        self.vjp = Some(Rc::new(rule));
        self
    }

    /// Sets the rule for Jacobian-vector products: of the inputs, the tangents of some of them and
    /// the numbers of these, it returns one product for each output.
    #[must_use]
    pub fn jvp<F>(mut self, rule: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>> + 'static,
    {
        self.jvp = Some(Rc::new(rule));
        self
    }

    /// Sets the rule for vectorisation: of the batched inputs and their axes (`None` for an input
    /// that all items share), it returns the batched outputs and their axes.
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
    /// and returns no array, or what MLX reports. A rule that fails, or returns another number of
    /// arrays than it must, fails the transformation that uses it.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        const OP: &str = "custom_function";
        let has_rules = self.vjp.is_some() || self.jvp.is_some() || self.vmap.is_some();
        // MLX takes what the rules return at its word, so they are counted here.
        let num_outputs = Rc::new(OnceCell::new());
        let function = {
            let (function, num_outputs) = (self.function.clone(), num_outputs.clone());
            Closure::new(move |inputs| {
                let outputs = function(inputs)?;
                num_outputs.get_or_init(|| outputs.len());
                if has_rules { some(OP, outputs) } else { Ok(outputs) }
            })
        };
        if !has_rules {
            return function.call(inputs);
        }
        let vjp = self.vjp.clone().map(counted_vjp);
        let jvp = self.jvp.clone().map(|rule| counted_jvp(rule, num_outputs.clone()));
        let vmap = self.vmap.clone().map(|rule| counted_vmap(rule, num_outputs.clone()));
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
    with_vjp(&function, &counted_vjp(Rc::new(rule)))
}

fn with_vjp(function: &Closure, rule: &CustomVjp) -> Result<Closure> {
    Closure::derived("custom_vjp", |res| {
        // SAFETY: both closures are live, and MLX keeps its own copies.
        unsafe { sys::mlx_custom_vjp(res, function.as_raw(), rule.as_raw()) }
    })
}

fn counted_vjp(rule: Rc<Vjp>) -> CustomVjp {
    CustomVjp::new(move |primals, cotangents, outputs| {
        let products = rule(primals, cotangents, outputs)?;
        count("vjp", "product for each input", products.len(), primals.len())?;
        Ok(products)
    })
}

fn counted_jvp(rule: Rc<Jvp>, num_outputs: Rc<OnceCell<usize>>) -> CustomJvp {
    CustomJvp::new(move |primals, tangents, argnums| {
        let products = rule(primals, tangents, argnums)?;
        count("jvp", "product for each output", products.len(), *num_outputs.get().unwrap_or(&0))?;
        Ok(products)
    })
}

fn counted_vmap(rule: Rc<Vmap>, num_outputs: Rc<OnceCell<usize>>) -> CustomVmap {
    CustomVmap::new(move |inputs, axes| {
        let (outputs, axes) = rule(inputs, axes)?;
        count(
            "vmap",
            "output for each of the function",
            outputs.len(),
            *num_outputs.get().unwrap_or(&0),
        )?;
        count("vmap", "axis for each output", axes.len(), outputs.len())?;
        Ok((outputs, axes))
    })
}

fn count(rule: &str, what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::invalid_argument(
        "custom_function",
        format!("the rule for {rule} returns one {what}: {wanted} arrays, not {found}"),
    ))
}
