//! Functions into files.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};
use std::path::Path;

use crate::containers::MapStringToArray;
use crate::handles::Live;
use crate::io::{At, Pending, replace};
use crate::{
    Array, Closure, ClosureKwargs, Dtype, Error, ErrorKind, Result, VectorArray, call, sys,
};

const OP: &str = "export_function";

/// Exports a function to a file: its graph for inputs like these.
///
/// The file may be called with inputs of the same number, shapes and dtypes, or with `shapeless`,
/// of other shapes with as many dimensions. The path has its old content until the new is whole.
///
/// # Errors
/// The function's own error, what MLX reports, or [`Error::File`] if the system refuses.
pub fn export_function<F, A>(
    path: impl AsRef<Path>,
    f: F,
    args: &[A],
    shapeless: bool,
) -> Result<()>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    let function = Closure::new(f);
    let args = VectorArray::from_arrays(args)?;
    write(path.as_ref(), |name| {
        // SAFETY: `name` is a C string, and the handles are live.
        unsafe {
            sys::mlx_export_function(name.as_ptr(), function.as_raw(), args.as_raw(), shapeless)
        }
    })
}

/// Exports a function with keyword arguments to a file; see [`export_function`].
///
/// # Errors
/// As for [`export_function`].
///
/// ```
/// use std::collections::BTreeMap;
/// use mlx_graft::{Array, export, ops};
///
/// let path = std::env::temp_dir().join("mlx-graft-doc-kwargs.mlxfn");
/// let (x, by) = (Array::scalar(3.0_f32)?, Array::scalar(2.0_f32)?);
/// let kwargs = BTreeMap::from([("by".to_string(), by)]);
/// let scaled = |x: &[Array], named: &BTreeMap<String, Array>| {
///     Ok(vec![ops::multiply(&x[0], &named["by"])?])
/// };
/// export::export_function_kwargs(&path, scaled, &[&x], &kwargs, false)?;
/// let scaled = export::import_function(&path)?;
/// assert_eq!(scaled.call_kwargs(&[&x], &kwargs)?[0].item::<f32>()?, 6.0);
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn export_function_kwargs<F, A>(
    path: impl AsRef<Path>,
    f: F,
    args: &[A],
    kwargs: &BTreeMap<String, Array>,
    shapeless: bool,
) -> Result<()>
where
    F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    let function = ClosureKwargs::new(f);
    let args = VectorArray::from_arrays(args)?;
    let kwargs = MapStringToArray::try_from(kwargs)?;
    write(path.as_ref(), |name| {
        // SAFETY: `name` is a C string, and the handles are live.
        unsafe {
            sys::mlx_export_function_kwargs(
                name.as_ptr(),
                function.as_raw(),
                args.as_raw(),
                kwargs.as_raw(),
                shapeless,
            )
        }
    })
}

fn write(path: &Path, export: impl FnOnce(&CStr) -> c_int) -> Result<()> {
    let at = At::path(OP, path);
    let write = |temporary: &Path| {
        let name = at.c_path(temporary)?;
        call::status(OP, || export(&name))
    };
    replace(path, write, at.refused())
}

/// What MLX tells traces of one file apart by: all inputs, those by keyword last.
struct Signature {
    inputs: Vec<(Vec<i32>, Dtype)>,
    keywords: Vec<String>,
}

impl Signature {
    /// Whether MLX takes inputs of this signature for those of a trace of the other.
    fn matches(&self, trace: &Self) -> bool {
        self.inputs == trace.inputs && trace.keywords.iter().all(|k| self.keywords.contains(k))
    }
}

/// Exports several traces of one function to a file, which is there when this is closed.
///
/// Dropped before, as by an error between two traces, it leaves what was at the path as it was.
///
/// ```
/// use mlx_graft::{Array, export::{self, Exporter}, ops};
///
/// let path = std::env::temp_dir().join("mlx-graft-doc-traces.mlxfn");
/// let sum = |x: &[Array]| Ok(vec![x.iter().skip(1).try_fold(x[0].clone(), |s, x| ops::add(&s, x))?]);
/// let mut exporter = Exporter::new(&path, sum, false)?;
/// let one = Array::scalar(1_i32)?;
/// exporter.call(&[&one])?;
/// exporter.call(&[&one, &one])?;
/// exporter.close()?;
/// let sum = export::import_function(&path)?;
/// assert_eq!(sum.call(&[&one, &one])?[0].item::<i32>()?, 2);
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[must_use = "without `close` there is no file"]
pub struct Exporter {
    // None once it is closed or a trace failed or panicked: MLX's own goes on writing after half a
    // trace.
    open: Option<Open>,
    at: At,
    shapeless: bool,
    seen: Vec<Signature>,
}

struct Open {
    // Before the file, which is renamed when nothing writes to it any more.
    raw: Handle,
    file: Pending,
}

/// The RAII handle of an exporter.
struct Handle {
    raw: sys::mlx_function_exporter,
    _live: Live,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_function_exporter_free(self.raw) };
        }
    }
}

impl Exporter {
    /// An exporter of a function of positional arguments.
    ///
    /// # Errors
    /// [`Error::File`] if the system refuses.
    pub fn new<F>(path: impl AsRef<Path>, f: F, shapeless: bool) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        let function = Closure::new(f);
        Self::open(path.as_ref(), shapeless, |name| {
            // SAFETY: `name` is a C string, and MLX copies the closure.
            unsafe { sys::mlx_function_exporter_new(name.as_ptr(), function.as_raw(), shapeless) }
        })
    }

    /// An exporter of a function that takes keyword arguments too, with a text to save beside it.
    ///
    /// # Errors
    /// [`Error::File`] if the system refuses or the metadata contains a zero byte.
    pub fn with_kwargs<F>(
        path: impl AsRef<Path>,
        f: F,
        shapeless: bool,
        metadata: &str,
    ) -> Result<Self>
    where
        F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
    {
        let path = path.as_ref();
        let metadata = At::path(OP, path).c_text(metadata)?;
        let function = ClosureKwargs::new(f);
        Self::open(path, shapeless, |name| {
            // SAFETY: both texts are C strings, and MLX copies the closure.
            unsafe {
                sys::graft_function_exporter_new(
                    name.as_ptr(),
                    function.as_raw(),
                    shapeless,
                    metadata.as_ptr(),
                )
            }
        })
    }

    fn open(
        path: &Path,
        shapeless: bool,
        make: impl FnOnce(&CStr) -> sys::mlx_function_exporter,
    ) -> Result<Self> {
        let at = At::path(OP, path);
        let file = Pending::new(path).map_err(at.refused())?;
        let name = at.c_path(file.path())?;
        call::ready();
        let raw = Handle { raw: make(&name), _live: Live::new() };
        call::status(OP, || c_int::from(raw.raw.ctx.is_null()))?;
        Ok(Self { open: Some(Open { raw, file }), at, shapeless, seen: Vec::new() })
    }

    /// Traces the function for inputs like these.
    ///
    /// # Errors
    /// The function's own error or what MLX reports, after which the exporter is closed without a
    /// file; [`ErrorKind::Runtime`] if it is closed, or was called with such inputs before.
    pub fn call<A: AsRef<Array>>(&mut self, args: &[A]) -> Result<()> {
        let list = VectorArray::from_arrays(args)?;
        self.trace(args, &BTreeMap::new(), |raw| {
            // SAFETY: the handles are live.
            unsafe { sys::mlx_function_exporter_apply(raw, list.as_raw()) }
        })
    }

    /// Traces the function for inputs like these. A function of positional arguments does not see
    /// those with names.
    ///
    /// # Errors
    /// As for [`Exporter::call`].
    pub fn call_kwargs<A: AsRef<Array>>(
        &mut self,
        args: &[A],
        kwargs: &BTreeMap<String, Array>,
    ) -> Result<()> {
        let list = VectorArray::from_arrays(args)?;
        let map = MapStringToArray::try_from(kwargs)?;
        self.trace(args, kwargs, |raw| {
            // SAFETY: the handles are live.
            unsafe { sys::mlx_function_exporter_apply_kwargs(raw, list.as_raw(), map.as_raw()) }
        })
    }

    fn trace<A: AsRef<Array>>(
        &mut self,
        args: &[A],
        kwargs: &BTreeMap<String, Array>,
        apply: impl FnOnce(sys::mlx_function_exporter) -> c_int,
    ) -> Result<()> {
        if self.open.is_none() {
            return Err(closed());
        }
        let shape = |array: &Array| {
            if self.shapeless { vec![0; array.ndim()] } else { array.shape().to_vec() }
        };
        let inputs = args.iter().map(AsRef::as_ref).chain(kwargs.values());
        let signature = Signature {
            inputs: inputs.map(|array| (shape(array), array.dtype())).collect(),
            keywords: kwargs.keys().cloned().collect(),
        };
        if self.seen.iter().any(|trace| signature.matches(trace)) {
            return Err(refusal(
                "Attempting to export a function twice with the same signature is not allowed.",
            ));
        }
        // Taken out, so that a panic of the function, which unwinds from here, closes it too.
        let Some(open) = self.open.take() else { return Err(closed()) };
        call::status(OP, || apply(open.raw.raw))?;
        self.open = Some(open);
        self.seen.push(signature);
        Ok(())
    }

    /// Puts the file in its place, without which there is none. Again, or after a failure, it does
    /// nothing.
    ///
    /// # Errors
    /// [`Error::File`] if the system refuses.
    pub fn close(&mut self) -> Result<()> {
        let Some(Open { raw, file }) = self.open.take() else { return Ok(()) };
        drop(raw);
        file.commit().map_err(self.at.refused())
    }
}

fn closed() -> Error {
    refusal("Attempting to write after exporting is closed.")
}

fn refusal(message: &str) -> Error {
    Error::Mlx { kind: ErrorKind::Runtime, op: OP, message: format!("[{OP}] {message}") }
}
