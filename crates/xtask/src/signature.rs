//! The Python signature of an operation, matched to the parameters of its C functions.

use anyhow::{Context, Result, bail};

use crate::header::{Function, Kind, Output, Param};
use crate::table::Op;

/// What a Python argument is taken as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Type {
    /// The C type says it.
    Plain(Kind),
    /// A number or an array.
    Scalar,
    /// A number or an array, or `None`.
    OptionalScalar,
    /// A number or an array; a number takes the dtype of the other such operand.
    Weak,
    /// One number or several.
    IntOrInts,
    /// One number for each of so many dimensions, or one for all.
    Each(usize),
    /// A random key; without one, the next of `mlx.core.random.state`.
    Key,
    /// The length of a Fourier transform, or `None`.
    Length(Spectrum),
    /// The lengths of a Fourier transform, or `None`.
    Lengths(Spectrum),
    /// The axes of a Fourier transform, or `None`.
    LengthAxes,
    /// An axis or several axes; `None` stands for all.
    AllAxes,
    /// `None` or an axis, which chooses the C function.
    Axis,
    /// `None`, an axis or several axes, which choose the C function.
    AxisOrAxes,
    /// An axis or several axes, which choose the C function.
    GivenAxes,
    /// `None` or several axes, which choose the C function.
    Axes,
    /// `None` or a dtype, which chooses the C function.
    Dtype,
    /// What the annotation says, for a function written by hand.
    ByHand(String),
}

/// What a Fourier transform reads, from which its default lengths follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spectrum {
    /// As many elements as it writes.
    Full,
    /// The half that a real signal has.
    Half,
}

/// A Python parameter.
pub struct PyParam {
    /// Its name in Python.
    pub name: String,
    /// Its name in Rust.
    pub rust: String,
    /// The parameters of the C function that are made of it.
    pub feeds: Vec<String>,
    /// What it is taken as.
    pub ty: Type,
    /// The default, in Python's notation.
    pub default: Option<String>,
    /// Whether it takes all remaining positional arguments.
    pub variadic: bool,
}

/// An element of a signature.
pub enum Item {
    /// `/` or `*`.
    Mark(&'static str),
    /// A parameter.
    Param(PyParam),
    /// `stream`.
    Stream,
}

/// A Python signature.
pub struct Signature {
    /// Its elements; `stream` is one of them if the operation takes one.
    pub items: Vec<Item>,
}

impl Signature {
    /// Reads the signature of an operation; `None` if it has none.
    pub fn of(op: &Op) -> Result<Option<Self>> {
        let Some(text) = &op.signature else { return Ok(None) };
        let widest = widest(op);
        let mut params = widest.params.iter();
        let mut items = Vec::new();
        let mut keywords = false;
        for item in split(text) {
            match item.as_str() {
                "/" => items.push(Item::Mark("/")),
                "*" => {
                    keywords = true;
                    items.push(Item::Mark("*"));
                }
                "stream" => items.push(Item::Stream),
                item => {
                    let (item, default) = match item.split_once('=') {
                        Some((item, default)) => (item, Some(default.trim().to_string())),
                        None => (item, None),
                    };
                    let (name, annotation) = match item.split_once(':') {
                        Some((name, annotation)) => (name.trim(), Some(annotation.trim())),
                        None => (item.trim(), None),
                    };
                    let mut feeds = Vec::new();
                    let ty = if op.hand {
                        let annotation = annotation
                            .with_context(|| format!("`{name}` needs a type: it is by hand"))?;
                        Type::ByHand(annotation.to_string())
                    } else {
                        let mut next = || {
                            params.next().with_context(|| {
                                format!("`{name}` is one parameter more than {} has", widest.name)
                            })
                        };
                        let param = next()?;
                        feeds.push(param.name.clone());
                        let ty = ty(op, param, annotation)?;
                        if let Type::Each(dimensions) = ty {
                            for _ in 1..dimensions {
                                feeds.push(next()?.name.clone());
                            }
                        }
                        ty
                    };
                    let variadic = name.starts_with('*');
                    let name = name.trim_start_matches('*');
                    keywords |= variadic;
                    items.push(Item::Param(PyParam {
                        name: name.to_string(),
                        rust: name.to_string(),
                        feeds,
                        ty,
                        default,
                        variadic,
                    }));
                }
            }
        }
        if let Some(param) = params.next().filter(|_| !op.hand) {
            bail!("the Python signature lacks `{}` of {}", param.name, widest.name);
        }
        if widest.stream && !items.iter().any(|item| matches!(item, Item::Stream)) {
            if !keywords {
                items.push(Item::Mark("*"));
            }
            items.push(Item::Stream);
        }
        Ok(Some(Self { items }))
    }

    /// Its parameters without the stream.
    pub fn params(&self) -> impl Iterator<Item = &PyParam> {
        self.items.iter().filter_map(|item| match item {
            Item::Param(param) => Some(param),
            _ => None,
        })
    }

    /// The parameter of which a parameter of a C function is made. What is `axes` in one variant is
    /// `axis` in another.
    pub fn feeding(&self, name: &str) -> Option<&PyParam> {
        let axis = |name: &str| matches!(name, "axis" | "axes");
        self.params()
            .find(|p| p.feeds.iter().any(|feed| feed == name || (axis(feed) && axis(name))))
    }

    /// Whether it takes a stream.
    pub fn stream(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Stream))
    }
}

/// The function with the most parameters: the Python function takes what it takes.
pub fn widest(op: &Op) -> &Function {
    let functions = op.functions.iter().map(|(_, function)| function);
    functions
        .rev()
        .max_by_key(|function| function.params.len())
        .expect("an operation has a function")
}

/// What the operation returns.
pub fn output(op: &Op) -> Output {
    op.functions[0].1.output
}

/// Splits at the commas outside brackets.
fn split(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in text.chars() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => {}
        }
        match items.last_mut() {
            Some(item) if c != ',' || depth > 0 => item.push(c),
            _ => items.push(String::new()),
        }
    }
    items.iter().map(|item| item.trim().to_string()).collect()
}

fn ty(op: &Op, param: &Param, annotation: Option<&str>) -> Result<Type> {
    let has = |suffix: &str| op.functions.iter().any(|(found, _)| found == suffix);
    let base_takes_axis = op.functions[0].1.params.iter().any(|p| p.name == "axis");
    Ok(match (annotation, param.name.as_str(), param.kind) {
        (None, "axis" | "axes", _) if has("_axes") && base_takes_axis => Type::GivenAxes,
        (None, "axis" | "axes", _) if has("_axes") && has("_axis") => Type::AxisOrAxes,
        (None, "axes", _) if has("_axes") => Type::Axes,
        (None, "axis", _) if has("_axis") => Type::Axis,
        (None, "dtype", _) if has("_dtype") => Type::Dtype,
        (None, "key", Kind::OptionalArray) => Type::Key,
        (None, _, kind) => Type::Plain(kind),
        (Some("scalar"), _, Kind::Array) => Type::Scalar,
        (Some("scalar | None"), _, Kind::OptionalArray) => Type::OptionalScalar,
        (Some("weak"), _, Kind::Array) => Type::Weak,
        (Some("int | Sequence[int]"), _, Kind::Ints) => Type::IntOrInts,
        (Some("array | None"), _, Kind::OptionalArray) => Type::Plain(param.kind),
        (Some("int | tuple[int, int]"), _, Kind::Int) => Type::Each(2),
        (Some("int | tuple[int, int, int]"), _, Kind::Int) => Type::Each(3),
        (Some("length"), _, Kind::Int) => Type::Length(Spectrum::Full),
        (Some("half_length"), _, Kind::Int) => Type::Length(Spectrum::Half),
        (Some("lengths"), _, Kind::Ints) => Type::Lengths(Spectrum::Full),
        (Some("half_lengths"), _, Kind::Ints) => Type::Lengths(Spectrum::Half),
        (Some("length_axes"), _, Kind::Ints) => Type::LengthAxes,
        (Some("all_axes"), _, Kind::Ints) => Type::AllAxes,
        (Some(annotation), name, kind) => {
            bail!("no rule for `{name}: {annotation}`, which is {kind:?} in C")
        }
    })
}
