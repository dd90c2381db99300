//! The graph of a function, part by part.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use crate::call::{owned_text, slice_of};
use crate::containers::MapStringToArray;
use crate::{Array, BorrowedArray, ClosureKwargs, Dtype, Result, VectorArray, call, error, sys};

const OP: &str = "export_function";

/// An array of a graph, by its name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphArray {
    /// The name.
    pub name: String,
    /// The length of each dimension.
    pub shape: Vec<i32>,
    /// The dtype.
    pub dtype: Dtype,
}

/// An argument of an operation in a graph, in the order of MLX's primitive.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// An optional number that is not given.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer, or what is counted by one.
    Int(i64),
    /// A number.
    Float(f64),
    /// A dtype.
    Dtype(Dtype),
    /// A text.
    String(String),
    /// A shape, or strides.
    Shape(Vec<i64>),
    /// A list.
    List(Vec<Argument>),
    /// A fixed number of values.
    Tuple(Vec<Argument>),
}

/// A part of the graph of a function. They come in this order; operations in that of computation.
#[derive(Debug, Clone)]
pub enum GraphPart {
    /// The inputs, those by keyword last.
    Inputs(Vec<GraphArray>),
    /// The keywords, with the names of their arrays.
    KeywordInputs(Vec<(String, String)>),
    /// The outputs.
    Outputs(Vec<GraphArray>),
    /// The arrays that the function captured, by name.
    Constants(Vec<(String, Array)>),
    /// An operation.
    Primitive {
        /// The name of MLX's primitive.
        name: String,
        /// What it takes.
        inputs: Vec<GraphArray>,
        /// What it gives.
        outputs: Vec<GraphArray>,
        /// Its arguments.
        arguments: Vec<Argument>,
    },
}

/// Traces a function and gives its graph to `callback`, part by part.
///
/// # Errors
/// The function's or the callback's own error, or what MLX reports.
///
/// ```
/// use std::collections::BTreeMap;
/// use mlx_graft::export::{self, GraphPart};
/// use mlx_graft::{Array, ops};
///
/// let mut names = Vec::new();
/// let callback = |part| {
///     if let GraphPart::Primitive { name, .. } = part {
///         names.push(name);
///     }
///     Ok(())
/// };
/// let f = |x: &[Array], _: &BTreeMap<String, Array>| Ok(vec![ops::exp(&ops::abs(&x[0])?)?]);
/// let x = Array::scalar(1.0_f32)?;
/// export::export_function_with(callback, f, &[&x], &BTreeMap::new(), false)?;
/// assert_eq!(names, ["Abs", "Exp"]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn export_function_with<C, F, A>(
    mut callback: C,
    f: F,
    args: &[A],
    kwargs: &BTreeMap<String, Array>,
    shapeless: bool,
) -> Result<()>
where
    C: FnMut(GraphPart) -> Result<()>,
    F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    let function = ClosureKwargs::new(f);
    let args = VectorArray::from_arrays(args)?;
    let kwargs = MapStringToArray::try_from(kwargs)?;
    call::status(OP, || {
        // SAFETY: the handles are live; the callback matches its payload, and is called on this
        // thread before the call returns.
        unsafe {
            sys::graft_export_function_callback(
                Some(forward::<C>),
                (&raw mut callback).cast(),
                function.as_raw(),
                args.as_raw(),
                kwargs.as_raw(),
                shapeless,
            )
        }
    })
}

extern "C" fn forward<C>(event: *const sys::graft_export_event, payload: *mut c_void) -> c_int
where
    C: FnMut(GraphPart) -> Result<()>,
{
    error::guarded(|| {
        // SAFETY: C++ passes a live event, and the payload of `export_function_with`, which nobody
        // else uses meanwhile: the function itself is traced before the first event.
        let (part, callback) = unsafe { (part(&*event)?, &mut *payload.cast::<C>()) };
        callback(part)
    })
}

fn dtype(raw: sys::mlx_dtype) -> Result<Dtype> {
    Dtype::from_raw(raw)
        .ok_or_else(|| crate::Error::invalid_argument(OP, format!("unknown dtype {raw}")))
}

/// # Safety
/// All that the event points to is live.
unsafe fn part(event: &sys::graft_export_event) -> Result<GraphPart> {
    // SAFETY: the caller says so, here and below.
    let arrays = |data, len| unsafe { arrays(data, len) };
    Ok(match event.kind {
        sys::GRAFT_EXPORT_INPUTS => GraphPart::Inputs(arrays(event.inputs, event.num_inputs)?),
        sys::GRAFT_EXPORT_OUTPUTS => GraphPart::Outputs(arrays(event.outputs, event.num_outputs)?),
        sys::GRAFT_EXPORT_KEYWORD_INPUTS => {
            // SAFETY: as above.
            let keywords = unsafe { slice_of(event.keywords, event.num_keywords) };
            // SAFETY: as above.
            let pair = |k: &sys::graft_export_keyword| unsafe {
                (owned_text(k.keyword), owned_text(k.name))
            };
            GraphPart::KeywordInputs(keywords.iter().map(pair).collect())
        }
        sys::GRAFT_EXPORT_CONSTANTS => {
            // SAFETY: as above.
            let constants = unsafe { slice_of(event.constants, event.num_constants) };
            let pair = |constant: &sys::graft_export_constant| {
                // SAFETY: as above; the borrowed array is shared before the event ends.
                let (name, value) =
                    unsafe { (owned_text(constant.name), BorrowedArray::new(constant.value.ctx)) };
                (name, Array::clone(&value))
            };
            GraphPart::Constants(constants.iter().map(pair).collect())
        }
        _ => {
            // SAFETY: as above.
            let (name, items) =
                unsafe { (owned_text(event.name), slice_of(event.arguments, event.num_arguments)) };
            GraphPart::Primitive {
                name,
                inputs: arrays(event.inputs, event.num_inputs)?,
                outputs: arrays(event.outputs, event.num_outputs)?,
                // SAFETY: as above.
                arguments: items.iter().map(|a| unsafe { argument(a) }).collect::<Result<_>>()?,
            }
        }
    })
}

/// # Safety
/// `data` points to `len` arrays, and what they point to is live.
unsafe fn arrays(data: *const sys::graft_export_array, len: usize) -> Result<Vec<GraphArray>> {
    // SAFETY: the caller says so.
    let items = unsafe { slice_of(data, len) };
    let array = |item: &sys::graft_export_array| {
        // SAFETY: the caller says so.
        let (name, shape) = unsafe { (owned_text(item.name), slice_of(item.shape, item.ndim)) };
        Ok(GraphArray { name, shape: shape.to_vec(), dtype: dtype(item.dtype)? })
    };
    items.iter().map(array).collect()
}

/// # Safety
/// What the argument points to is live.
unsafe fn argument(raw: &sys::graft_export_argument) -> Result<Argument> {
    // SAFETY: the caller says so, here and below.
    let items = unsafe { slice_of(raw.items, raw.num_items) };
    // SAFETY: as above.
    let nested = || items.iter().map(|item| unsafe { argument(item) }).collect::<Result<_>>();
    Ok(match raw.kind {
        sys::GRAFT_EXPORT_BOOL => Argument::Bool(raw.integer != 0),
        sys::GRAFT_EXPORT_INT => Argument::Int(raw.integer),
        sys::GRAFT_EXPORT_FLOAT => Argument::Float(raw.real),
        sys::GRAFT_EXPORT_DTYPE => Argument::Dtype(dtype(raw.dtype)?),
        // SAFETY: as above.
        sys::GRAFT_EXPORT_STRING => Argument::String(unsafe { owned_text(raw.text) }),
        sys::GRAFT_EXPORT_SHAPE => Argument::Shape(items.iter().map(|i| i.integer).collect()),
        sys::GRAFT_EXPORT_LIST => Argument::List(nested()?),
        sys::GRAFT_EXPORT_TUPLE => Argument::Tuple(nested()?),
        _ => Argument::None,
    })
}
