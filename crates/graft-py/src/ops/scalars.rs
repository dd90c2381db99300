//! Python numbers as operands, with the dtypes that `mlx.core` gives them.

use std::ops::Deref;

use mlx_graft::{Array, Dtype, bf16, f16};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt};

use crate::bridge::In;
use crate::error::to_py;

/// An operand as an array: the one that Python holds, or one made for the call.
pub(crate) enum Converted {
    /// What Python holds.
    Lent(In),
    /// Made of a number.
    Made(Array),
}

impl Deref for Converted {
    type Target = Array;

    fn deref(&self) -> &Array {
        match self {
            Self::Lent(array) => array,
            Self::Made(array) => array,
        }
    }
}

impl AsRef<Array> for Converted {
    fn as_ref(&self) -> &Array {
        self
    }
}

/// An array, or what becomes one.
pub(crate) enum Operand<'py> {
    /// A `bool`.
    Bool(bool),
    /// An `int`.
    Int(i64),
    /// A `float`.
    Float(f64),
    /// A `complex`.
    Complex(f32, f32),
    /// An `mlx.core.array`, or an object that gives one (`__mlx_array__`).
    Array(In),
    /// An array of `NumPy`, or of another package that speaks its protocol.
    Foreign(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Operand<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = In::of(object) {
            return Ok(Self::Array(array));
        }
        if object.is_instance_of::<PyBool>() {
            return Ok(Self::Bool(object.extract()?));
        }
        if object.is_instance_of::<PyInt>() {
            let value = object.extract();
            return value.map(Self::Int).map_err(|_| {
                PyRuntimeError::new_err("the number is too large for any dtype of `mlx.core`")
            });
        }
        if object.is_instance_of::<PyFloat>() {
            return Ok(Self::Float(object.extract()?));
        }
        if let Ok(number) = object.cast::<PyComplex>() {
            return Ok(Self::Complex(number.real() as f32, number.imag() as f32));
        }
        if object.hasattr("__mlx_array__")? {
            return object.call_method0("__mlx_array__")?.extract().map(Self::Array);
        }
        if object.hasattr("__array__")? {
            return Ok(Self::Foreign(object.to_owned()));
        }
        let ty = object.get_type().name()?;
        Err(PyValueError::new_err(format!("expected an mlx.core.array or a number, not {ty}")))
    }
}

impl Operand<'_> {
    /// The operand as an array of its own dtype.
    pub(crate) fn array(self) -> PyResult<Converted> {
        self.array_beside(None)
    }

    /// The operand as an array beside one of dtype `other`: a number takes that dtype if it can
    /// hold numbers of its kind.
    pub(super) fn array_beside(self, other: Option<Dtype>) -> PyResult<Converted> {
        let made = match self {
            Self::Array(array) => return Ok(Converted::Lent(array)),
            Self::Foreign(object) => foreign(&object, other),
            Self::Bool(value) => integer(value.into(), other.unwrap_or(Dtype::Bool)),
            Self::Int(value) => match other {
                Some(Dtype::Bool) => integer(value, Dtype::Int32),
                Some(dtype) => integer(value, dtype),
                None if i32::try_from(value).is_ok() => integer(value, Dtype::Int32),
                None => integer(value, Dtype::Int64),
            },
            Self::Float(value) => floating(value, other.filter(|dtype| dtype.is_floating())),
            Self::Complex(real, imaginary) => complex(real, imaginary),
        };
        made.map(Converted::Made)
    }
}

/// A copy of an array of another package, of `dtype` or else of its own.
fn foreign(object: &Bound<'_, PyAny>, dtype: Option<Dtype>) -> PyResult<Array> {
    let mx = object.py().import("mlx.core")?;
    let dtype = dtype.map(|dtype| mx.getattr(dtype.name())).transpose()?;
    let array: In = mx.call_method1("array", (object, dtype))?.extract()?;
    Ok(array.into_array())
}

/// A scalar of `dtype`.
fn integer(value: i64, dtype: Dtype) -> PyResult<Array> {
    let range = |_| PyValueError::new_err(format!("{value} is out of the range of {dtype}"));
    match dtype {
        Dtype::Bool => Array::scalar(value != 0),
        Dtype::Uint8 => Array::scalar(u8::try_from(value).map_err(range)?),
        Dtype::Uint16 => Array::scalar(u16::try_from(value).map_err(range)?),
        Dtype::Uint32 => Array::scalar(u32::try_from(value).map_err(range)?),
        Dtype::Uint64 => Array::scalar(u64::try_from(value).map_err(range)?),
        Dtype::Int8 => Array::scalar(i8::try_from(value).map_err(range)?),
        Dtype::Int16 => Array::scalar(i16::try_from(value).map_err(range)?),
        Dtype::Int32 => Array::scalar(i32::try_from(value).map_err(range)?),
        Dtype::Int64 => Array::scalar(value),
        Dtype::Float16 | Dtype::Float32 | Dtype::Float64 | Dtype::Bfloat16 => {
            return floating(value as f64, Some(dtype));
        }
        Dtype::Complex64 => return complex(value as f32, 0.0),
    }
    .map_err(to_py)
}

/// A scalar of a floating-point dtype, float32 if none is given.
fn floating(value: f64, dtype: Option<Dtype>) -> PyResult<Array> {
    let single = value as f32;
    match dtype {
        Some(Dtype::Float16) => Array::scalar(f16::from_f32(single)),
        Some(Dtype::Bfloat16) => Array::scalar(bf16::from_f32(single)),
        Some(Dtype::Float64) => Array::scalar(value),
        _ => Array::scalar(single),
    }
    .map_err(to_py)
}

/// A scalar of dtype complex64.
fn complex(real: f32, imaginary: f32) -> PyResult<Array> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&real.to_ne_bytes());
    bytes[4..].copy_from_slice(&imaginary.to_ne_bytes());
    Array::from_bytes(&bytes, &[], Dtype::Complex64).map_err(to_py)
}

/// Two operands as arrays; a number beside an array takes the array's dtype if it fits.
pub(super) fn weak(a: Operand<'_>, b: Operand<'_>) -> PyResult<(Converted, Converted)> {
    match (a, b) {
        (Operand::Array(a), Operand::Array(b)) => Ok((Converted::Lent(a), Converted::Lent(b))),
        (Operand::Array(a), b) => {
            let dtype = a.dtype();
            Ok((Converted::Lent(a), b.array_beside(Some(dtype))?))
        }
        (a, Operand::Array(b)) => Ok((a.array_beside(Some(b.dtype()))?, Converted::Lent(b))),
        (a, b) => Ok((a.array()?, b.array()?)),
    }
}
