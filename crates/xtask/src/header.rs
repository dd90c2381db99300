//! The signatures of C functions, read from the header text: the comment that marks a parameter as
//! optional is lost in the declarations that bindgen makes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a C function takes or returns, as far as operations use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `const mlx_array`
    Array,
    /// `const mlx_array /* may be null */`
    OptionalArray,
    /// `const mlx_vector_array`
    Arrays,
    /// `int`
    Int,
    /// `size_t`
    Size,
    /// `uint64_t`
    Uint64,
    /// `bool`
    Bool,
    /// `float`
    Float,
    /// `double`
    Double,
    /// `const int* x, size_t x_num`
    Ints,
    /// `const int* x /* may be null */, size_t x_num`
    OptionalInts,
    /// `const int64_t* x, size_t x_num`
    Int64s,
    /// `mlx_optional_int`
    OptionalInt,
    /// `mlx_optional_float`
    OptionalFloat,
    /// `mlx_dtype`
    Dtype,
    /// `mlx_optional_dtype`
    OptionalDtype,
    /// `const char*`
    Text,
    /// `mlx_fft_norm`
    Norm,
}

/// A parameter of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

/// What an operation returns through its leading pointers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Nothing.
    Nothing,
    /// One array.
    Array,
    /// Two arrays.
    Pair,
    /// A list of arrays.
    Arrays,
}

/// The signature of an operation.
#[derive(Clone, Debug)]
pub struct Function {
    /// The C name.
    pub name: String,
    /// What it returns.
    pub output: Output,
    /// What it takes, without outputs and stream.
    pub params: Vec<Param>,
    /// Whether it takes a stream.
    pub stream: bool,
}

/// The declarations of all headers in a folder, by name.
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Reads the headers.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut declarations = BTreeMap::new();
        for path in crate::bindings::headers(folder)? {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for start in text.match_indices("int mlx_").map(|(at, _)| at + "int ".len()) {
                let Some((name, rest)) = text[start..].split_once('(') else { continue };
                if let Some((params, _)) = rest.split_once(");") {
                    declarations.insert(name.to_string(), params.to_string());
                }
            }
        }
        Ok(Self(declarations))
    }

    /// The signature of a function, if all its types are ones that operations use.
    pub fn function(&self, name: &str) -> Result<Function> {
        let text = self.0.get(name).with_context(|| format!("no header declares {name}"))?;
        let mut function = Function {
            name: name.to_string(),
            output: Output::Nothing,
            params: Vec::new(),
            stream: false,
        };
        let mut length_of = None;
        for param in text.split(',').map(str::trim) {
            let (param, nullable) = match param.strip_suffix("/* may be null */") {
                Some(param) => (param.trim(), true),
                None => (param, false),
            };
            let (ty, name) = param.rsplit_once(' ').context("a parameter without a name")?;
            if let Some(list) = length_of.take() {
                if (ty, name) != ("size_t", &*format!("{list}_num")) {
                    bail!("{}: `{list}` is a pointer without a length", function.name);
                }
                continue;
            }
            let kind = match (ty, nullable) {
                ("mlx_array*", false) => {
                    function.output = match function.output {
                        Output::Nothing => Output::Array,
                        Output::Array => Output::Pair,
                        _ => bail!("{}: more than two outputs", function.name),
                    };
                    continue;
                }
                ("mlx_vector_array*", false) if function.output == Output::Nothing => {
                    function.output = Output::Arrays;
                    continue;
                }
                ("const mlx_stream", false) => {
                    function.stream = true;
                    continue;
                }
                ("const mlx_array", false) => Kind::Array,
                ("const mlx_array", true) => Kind::OptionalArray,
                ("const mlx_vector_array", false) => Kind::Arrays,
                ("int", false) => Kind::Int,
                ("size_t", false) => Kind::Size,
                ("uint64_t", false) => Kind::Uint64,
                ("bool", false) => Kind::Bool,
                ("float", false) => Kind::Float,
                ("double", false) => Kind::Double,
                ("const int*", false) => Kind::Ints,
                ("const int*", true) => Kind::OptionalInts,
                ("const int64_t*", false) => Kind::Int64s,
                ("mlx_optional_int", false) => Kind::OptionalInt,
                ("mlx_optional_float", false) => Kind::OptionalFloat,
                ("mlx_dtype", false) => Kind::Dtype,
                ("mlx_optional_dtype", false) => Kind::OptionalDtype,
                ("const char*", false) => Kind::Text,
                ("mlx_fft_norm", false) => Kind::Norm,
                _ => bail!("{}: no rule for the type of `{param}`", function.name),
            };
            if matches!(kind, Kind::Ints | Kind::OptionalInts | Kind::Int64s) {
                length_of = Some(name);
            }
            let name = if name == "type" { "dtype" } else { name.trim_end_matches('_') };
            function.params.push(Param { name: name.to_lowercase(), kind });
        }
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, params: &str) -> Headers {
        Headers(BTreeMap::from([(name.to_string(), params.to_string())]))
    }

    #[test]
    fn a_signature_becomes_outputs_parameters_and_stream() -> Result<()> {
        let text = "mlx_array* res_0, mlx_array* res_1, const mlx_array a, const int* axes, \
                    size_t axes_num, const mlx_array key /* may be null */, const mlx_stream s";
        let function = headers("mlx_f", text).function("mlx_f")?;
        assert_eq!(function.output, Output::Pair);
        assert!(function.stream);
        let kinds: Vec<(&str, Kind)> =
            function.params.iter().map(|param| (param.name.as_str(), param.kind)).collect();
        let expected = [("a", Kind::Array), ("axes", Kind::Ints), ("key", Kind::OptionalArray)];
        assert_eq!(kinds, expected);
        Ok(())
    }

    #[test]
    fn a_type_without_a_rule_is_named() {
        let error = headers("mlx_f", "mlx_array* res, mlx_closure f").function("mlx_f");
        let error = error.expect_err("closures have no rule").to_string();
        assert_eq!(error, "mlx_f: no rule for the type of `mlx_closure f`");
    }

    #[test]
    fn a_pointer_needs_its_length() {
        let error = headers("mlx_f", "mlx_array* res, const int* axes, int n").function("mlx_f");
        let error = error.expect_err("the length is missing").to_string();
        assert_eq!(error, "mlx_f: `axes` is a pointer without a length");
    }
}
