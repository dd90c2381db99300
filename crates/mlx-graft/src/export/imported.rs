//! Functions from files.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use crate::containers::{MapStringToArray, Text};
use crate::handles::Live;
use crate::io::At;
use crate::transforms::check_shapes;
use crate::{Array, Error, ErrorKind, Result, VectorArray, call, sys};

const OP: &str = "import_function";

/// More than any version's name.
const LONGEST_VERSION: u64 = 256;

/// A function from a file.
///
/// MLX computes it on the first stream of the process on the device that the function was exported
/// for, so in a process with several threads it is evaluated on the one that used MLX first;
/// elsewhere evaluation fails for want of that stream.
pub struct ImportedFunction {
    raw: sys::mlx_imported_function,
    shapeless: bool,
    _live: Live,
    // The arrays that it captured are read on a stream of this thread.
    _thread: PhantomData<*const ()>,
}

/// Imports a function from a file; see the [module](crate::export) about which files to trust.
///
/// # Errors
/// [`Error::File`] if the file is missing, cut short or no exported function, or has an operation
/// that this MLX does not know.
pub fn import_function(path: impl AsRef<Path>) -> Result<ImportedFunction> {
    let path = path.as_ref();
    let at = At::path(OP, path);
    let (file, length) = at.open(path, ErrorKind::Runtime)?;
    let shapeless = check(file, length, &at)?;
    let name = at.c_path(path)?;
    call::ready();
    // SAFETY: `name` is a C string; a failure gives a null handle and a stored error.
    let raw = unsafe { sys::mlx_imported_function_new(name.as_ptr()) };
    let function = ImportedFunction { raw, shapeless, _live: Live::new(), _thread: PhantomData };
    match call::status(OP, || c_int::from(raw.ctx.is_null())) {
        Ok(()) => Ok(function),
        // MLX does not say which file.
        Err(Error::Mlx { kind, message, .. }) => Err(at.error(kind, message)),
        Err(other) => Err(other),
    }
}

/// Checks the header of a file: the version of MLX, the number of traces, whether they are
/// shapeless, which is returned, and the metadata.
fn check(mut file: impl Read, length: u64, at: &At) -> Result<bool> {
    let mut left = length;
    let mut bytes = |count: u64, most: u64| {
        if count > left.min(most) {
            return Err(at.broken("is no exported function, or is cut short"));
        }
        left -= count;
        let mut bytes = vec![0; count as usize];
        file.read_exact(&mut bytes).map_err(at.refused())?;
        Ok(bytes)
    };
    let number = |bytes: Vec<u8>| bytes.iter().rev().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let version = number(bytes(8, length)?);
    let version = bytes(version, LONGEST_VERSION)?;
    let dotted = version.iter().all(u8::is_ascii_graphic) && version.contains(&b'.');
    let count = number(bytes(4, length)?) as i32;
    let shapeless = bytes(1, length)?[0];
    if !dotted || count < 0 || shapeless > 1 {
        return Err(at.broken("is no exported function"));
    }
    let metadata = number(bytes(8, length)?);
    bytes(metadata, length)?;
    Ok(shapeless == 1)
}

impl ImportedFunction {
    /// Calls the function: adds its graph to that of the inputs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if no trace in the file is for such inputs.
    pub fn call<A: AsRef<Array>>(&self, args: &[A]) -> Result<Vec<Array>> {
        let list = VectorArray::from_arrays(args)?;
        let mut res = VectorArray::new();
        call::status(OP, || {
            // SAFETY: all handles are live.
            unsafe { sys::mlx_imported_function_apply(res.as_mut_raw(), self.raw, list.as_raw()) }
        })?;
        self.checked(res.to_vec()?, args.iter().map(AsRef::as_ref))
    }

    /// Calls the function with keyword arguments too.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if no trace in the file is for such inputs.
    pub fn call_kwargs<A: AsRef<Array>>(
        &self,
        args: &[A],
        kwargs: &BTreeMap<String, Array>,
    ) -> Result<Vec<Array>> {
        let list = VectorArray::from_arrays(args)?;
        let named = MapStringToArray::try_from(kwargs)?;
        let mut res = VectorArray::new();
        call::status(OP, || {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_imported_function_apply_kwargs(
                    res.as_mut_raw(),
                    self.raw,
                    list.as_raw(),
                    named.as_raw(),
                )
            }
        })?;
        self.checked(res.to_vec()?, args.iter().map(AsRef::as_ref).chain(kwargs.values()))
    }

    /// The outputs, if the operations of a shapeless trace can take the shapes of the inputs.
    fn checked<'a>(
        &self,
        outputs: Vec<Array>,
        inputs: impl Iterator<Item = &'a Array>,
    ) -> Result<Vec<Array>> {
        if self.shapeless {
            check_shapes(&outputs, &inputs.collect::<Vec<_>>())?;
        }
        Ok(outputs)
    }

    /// The text that was saved beside the function, empty if there was none.
    ///
    /// # Errors
    /// Memory is short.
    pub fn metadata(&self) -> Result<String> {
        let mut text = Text::new();
        call::status(OP, || {
            // SAFETY: both handles are live.
            unsafe { sys::graft_imported_function_metadata(text.as_mut_raw(), self.raw) }
        })?;
        Ok(text.to_string())
    }
}

impl Drop for ImportedFunction {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_imported_function_free(self.raw) };
        }
    }
}
