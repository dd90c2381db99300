//! Transformations of functions from trees of arrays to trees of arrays.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Traces, vmap_with};
use crate::{Array, Error, Result, Tree, ValueAndGrad};

/// Trees with names.
pub type Named = BTreeMap<String, Tree>;

/// Which arguments a gradient is taken of.
#[derive(Debug, Clone, Copy)]
pub struct Wrt<'a> {
    /// The numbers of arguments by position.
    pub argnums: &'a [usize],
    /// The names of arguments by name.
    pub argnames: &'a [&'a str],
}

/// What a function returned, and the gradients of its loss.
#[derive(Debug)]
pub struct Gradients {
    /// The loss, a scalar.
    pub loss: Array,
    /// What the function returned beside the loss; it has no gradient.
    pub rest: Tree,
    /// One tree like the argument for each number in [`Wrt::argnums`].
    pub args: Vec<Tree>,
    /// One tree like the argument for each name in [`Wrt::argnames`].
    pub kwargs: Named,
}

/// The loss that `f` returns, and its gradients with respect to all leaves of some arguments.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) for a number or name that is no argument, or
/// when these have no leaf; as [`ValueAndGrad::call`] otherwise.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use mlx_graft::transforms::trees::{Wrt, value_and_grad};
/// use mlx_graft::{Array, Tree, ops};
///
/// // loss = weight * x + bias, with the parameters by name
/// let f = |args: &[Tree], named: &BTreeMap<String, Tree>| {
///     let (x, parameters) = (args[0].leaves(), named["parameters"].leaves());
///     let loss = ops::add(&ops::multiply(&parameters[1], &x[0])?, &parameters[0])?;
///     Ok((loss, Tree::from(x)))
/// };
/// let parameters = BTreeMap::from([
///     ("bias".to_string(), Array::scalar(1.0_f32)?),
///     ("weight".to_string(), Array::scalar(2.0_f32)?),
/// ]);
/// let named = BTreeMap::from([("parameters".to_string(), Tree::from(parameters))]);
/// let args = [Tree::from(Array::scalar(5.0_f32)?)];
/// let wrt = Wrt { argnums: &[0], argnames: &["parameters"] };
/// let found = value_and_grad(f, wrt, &args, &named)?;
/// assert_eq!(found.loss.item::<f32>()?, 11.0);
/// assert_eq!(found.args[0].leaves()[0].item::<f32>()?, 2.0);
/// assert_eq!(found.kwargs["parameters"].leaves()[1].item::<f32>()?, 5.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn value_and_grad<F>(f: F, wrt: Wrt<'_>, args: &[Tree], kwargs: &Named) -> Result<Gradients>
where
    F: Fn(&[Tree], &Named) -> Result<(Array, Tree)> + 'static,
{
    const OP: &str = "value_and_grad";
    let unknown =
        |what: String| Error::invalid_argument(OP, format!("there is no argument {what}"));
    if let Some(number) = wrt.argnums.iter().find(|n| **n >= args.len()) {
        return Err(unknown(number.to_string()));
    }
    if let Some(name) = wrt.argnames.iter().find(|name| !kwargs.contains_key(**name)) {
        return Err(unknown(format!("{name:?}")));
    }
    let mut leaves = Vec::new();
    let mut argnums = Vec::new();
    let mut add = |tree: &Tree, wanted: bool| {
        let start = leaves.len();
        leaves.extend(tree.leaves());
        if wanted {
            argnums.extend(start as i32..leaves.len() as i32);
        }
        start..leaves.len()
    };
    let arg_leaves: Vec<_> =
        args.iter().enumerate().map(|(i, tree)| add(tree, wrt.argnums.contains(&i))).collect();
    let kwarg_leaves: BTreeMap<&String, _> = kwargs
        .iter()
        .map(|(name, tree)| (name, add(tree, wrt.argnames.contains(&name.as_str()))))
        .collect();
    let rest = Rc::new(RefCell::new(None));
    let (own_args, own_kwargs, own_rest) = (args.to_vec(), kwargs.clone(), rest.clone());
    let function = move |inputs: &[Array]| {
        let mut inputs = inputs.iter().cloned();
        let mut fill = |tree: &Tree| tree.with_leaves(inputs.by_ref().take(tree.leaves().len()));
        let args = own_args.iter().map(&mut fill).collect::<Result<Vec<Tree>>>()?;
        let kwargs = own_kwargs
            .iter()
            .map(|(name, tree)| Ok((name.clone(), fill(tree)?)))
            .collect::<Result<Named>>()?;
        let (loss, structure) = f(&args, &kwargs)?;
        let mut values = vec![loss];
        values.extend(structure.leaves());
        *own_rest.borrow_mut() = Some(structure);
        Ok(values)
    };
    let (values, grads) = ValueAndGrad::new(function, &argnums)?.call(&leaves)?;
    let grad_of = |tree: &Tree, range: &std::ops::Range<usize>| {
        let chosen = argnums.iter().zip(&grads).filter(|(n, _)| range.contains(&(**n as usize)));
        tree.with_leaves(chosen.map(|(_, grad)| grad.clone()))
    };
    let grads_of_args =
        wrt.argnums.iter().map(|n| grad_of(&args[*n], &arg_leaves[*n])).collect::<Result<_>>()?;
    let grads_of_kwargs = kwarg_leaves
        .iter()
        .filter(|(name, _)| wrt.argnames.contains(&name.as_str()))
        .map(|(name, range)| Ok(((*name).clone(), grad_of(&kwargs[*name], range)?)))
        .collect::<Result<_>>()?;
    let structure = rest.take().unwrap_or_else(|| Tree::List(Vec::new()));
    Ok(Gradients {
        loss: values[0].clone(),
        rest: structure.with_leaves(values.into_iter().skip(1))?,
        args: grads_of_args,
        kwargs: grads_of_kwargs,
    })
}

/// Calls `f`, written for single items, on whole batches at once.
///
/// `in_axis` says for each leaf of `inputs`, by its path, which axis numbers the items, or `None`
/// if all items share it; `out_axis` says it for each leaf of what `f` returns for a single item.
///
/// # Errors
/// The function's own error, or as [`vmap`](super::vmap).
///
/// ```
/// use mlx_graft::transforms::trees::vmap;
/// use mlx_graft::{Array, Tree, ops};
///
/// let rows = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
/// let inputs = Tree::from(vec![rows, Array::scalar(10.0_f32)?]);
/// let f = |x: &Tree| Ok(Tree::from(ops::multiply(&ops::sum(&x.leaves()[0], false)?, &x.leaves()[1])?));
/// let sums = vmap(f, &inputs, |path, _| (path == "0").then_some(0), |_, _| Some(0))?;
/// assert_eq!(sums.leaves()[0].to_vec::<f32>()?, [30.0, 70.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn vmap<F>(
    f: F,
    inputs: &Tree,
    in_axis: impl Fn(&str, &Array) -> Option<i32>,
    out_axis: impl Fn(&str, &Array) -> Option<i32>,
) -> Result<Tree>
where
    F: Fn(&Tree) -> Result<Tree> + 'static,
{
    let axes = |tree: &Tree, axis: &dyn Fn(&str, &Array) -> Option<i32>| -> Vec<Option<i32>> {
        tree.flatten().iter().map(|(path, array)| axis(path, array)).collect()
    };
    let outputs = Rc::new(RefCell::new(None));
    let (own_inputs, own_outputs) = (inputs.clone(), outputs.clone());
    let function = move |leaves: &[Array]| {
        let tree = f(&own_inputs.with_leaves(leaves.iter().cloned())?)?;
        let leaves = tree.leaves();
        *own_outputs.borrow_mut() = Some(tree);
        Ok(leaves)
    };
    let no_output = || Tree::List(Vec::new());
    let leaves = vmap_with(function, &inputs.leaves(), &axes(inputs, &in_axis), |_| {
        Ok(outputs.borrow().as_ref().map(|tree| axes(tree, &out_axis)).unwrap_or_default())
    })?;
    outputs.take().unwrap_or_else(no_output).with_leaves(leaves)
}

/// A compiled function of trees, with a state that it reads and replaces.
pub struct Compiled<F> {
    function: Rc<F>,
    traces: Traces,
    shapeless: bool,
}

/// Compiles a function that reads its arguments, and reads and replaces a state.
///
/// It is traced once per structure, shapes and dtypes of both; with `shapeless`, one trace serves
/// all shapes. The structure of the state may change.
///
/// ```
/// use mlx_graft::transforms::trees::compile;
/// use mlx_graft::{Array, Tree, ops};
///
/// let step = compile(
///     |x, state| {
///         let total = ops::add(&state.leaves()[0], &x.leaves()[0])?;
///         *state = Tree::from(vec![total.clone()]);
///         Ok(Tree::from(ops::square(&total)?))
///     },
///     false,
/// );
/// let mut state = Tree::from(vec![Array::scalar(1.0_f32)?]);
/// let one = Tree::from(Array::scalar(1.0_f32)?);
/// step.call(&one, &mut state)?;
/// let y = step.call(&one, &mut state)?;
/// assert_eq!(y.leaves()[0].item::<f32>()?, 9.0);
/// assert_eq!(state.leaves()[0].item::<f32>()?, 3.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn compile<F>(f: F, shapeless: bool) -> Compiled<F>
where
    F: Fn(&Tree, &mut Tree) -> Result<Tree> + 'static,
{
    Compiled { function: Rc::new(f), traces: Traces::new(), shapeless }
}

impl<F> Compiled<F>
where
    F: Fn(&Tree, &mut Tree) -> Result<Tree> + 'static,
{
    /// Calls the function, tracing it first if structures, shapes or dtypes are new.
    ///
    /// # Errors
    /// The function's own error while it is traced, or what MLX reports. The state is then as it
    /// was.
    pub fn call(&self, inputs: &Tree, state: &mut Tree) -> Result<Tree> {
        let mut leaves = inputs.leaves();
        leaves.extend(state.leaves());
        let mut constants = Vec::new();
        describe(inputs, &mut constants);
        describe(state, &mut constants);
        let (function, own_inputs, own_state) =
            (self.function.clone(), inputs.clone(), state.clone());
        let traced = move |tracers: &[Array]| {
            let (inputs, state) = tracers.split_at(own_inputs.leaves().len());
            let inputs = own_inputs.with_leaves(inputs.iter().cloned())?;
            let mut state = own_state.with_leaves(state.iter().cloned())?;
            let outputs = function(&inputs, &mut state)?;
            let mut leaves = outputs.leaves();
            leaves.extend(state.leaves());
            Ok((leaves, (Shape::of(&outputs), Shape::of(&state))))
        };
        let (values, shapes) = self.traces.call(traced, &leaves, self.shapeless, &constants)?;
        let mut values = values.into_iter();
        let outputs = shapes.0.filled(&mut values)?;
        *state = shapes.1.filled(&mut values)?;
        Ok(outputs)
    }
}

/// Writes the structure of a tree as numbers, so that other structures give other numbers.
fn describe(tree: &Tree, out: &mut Vec<u64>) {
    match tree {
        Tree::Array(_) => out.push(0),
        Tree::List(items) => {
            out.extend([1, items.len() as u64]);
            for item in items {
                describe(item, out);
            }
        }
        Tree::Map(items) => {
            out.extend([2, items.len() as u64]);
            for (key, item) in items {
                out.push(key.len() as u64);
                out.extend(key.bytes().map(u64::from));
                describe(item, out);
            }
        }
    }
}

/// The structure of a tree without its arrays, which MLX may free on another thread.
enum Shape {
    Array,
    List(Vec<Shape>),
    Map(BTreeMap<String, Shape>),
}

impl Shape {
    fn of(tree: &Tree) -> Self {
        match tree {
            Tree::Array(_) => Self::Array,
            Tree::List(items) => Self::List(items.iter().map(Self::of).collect()),
            Tree::Map(items) => {
                Self::Map(items.iter().map(|(key, item)| (key.clone(), Self::of(item))).collect())
            }
        }
    }

    fn filled(&self, leaves: &mut impl Iterator<Item = Array>) -> Result<Tree> {
        Ok(match self {
            Self::Array => Tree::Array(leaves.next().ok_or_else(|| {
                Error::invalid_argument("compile", "the trace has fewer outputs than its structure")
            })?),
            Self::List(items) => {
                Tree::List(items.iter().map(|item| item.filled(leaves)).collect::<Result<_>>()?)
            }
            Self::Map(items) => {
                let fill = |(key, item): (&String, &Self)| Ok((key.clone(), item.filled(leaves)?));
                Tree::Map(items.iter().map(fill).collect::<Result<_>>()?)
            }
        })
    }
}
