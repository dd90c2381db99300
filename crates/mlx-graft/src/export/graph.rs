//! Graphs as text.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use crate::handles::Live;
use crate::{Array, Error, ErrorKind, Result, VectorArray, call, sys};

/// Names of arrays in the text of a graph; those without one are called A, B, C, ….
///
/// ```
/// use mlx_graft::{Array, export, ops};
///
/// let x = Array::scalar(1.0_f32)?;
/// let y = ops::exp(&x)?;
/// let mut namer = export::NodeNamer::new();
/// namer.set_name(&x, "x")?;
/// assert_eq!(namer.name(&x)?, "x");
/// let text = export::print_graph(&mut namer, &[&y])?;
/// assert!(text.contains("Exp x"));
/// assert!(export::export_to_dot(&mut namer, &[&y])?.starts_with("digraph {"));
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub struct NodeNamer {
    raw: sys::mlx_node_namer,
    _live: Live,
}

impl NodeNamer {
    /// Without names.
    pub fn new() -> Self {
        call::ready();
        // SAFETY: makes a handle, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_node_namer_new() }, _live: Live::new() }
    }

    /// Gives an array a name, in place of the one that it had.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the name contains a zero byte.
    pub fn set_name(&mut self, array: &Array, name: &str) -> Result<()> {
        const OP: &str = "set_name";
        let name = call::c_string(OP, name)?;
        call::status(OP, || {
            // SAFETY: both handles are live, and the name is copied.
            unsafe { sys::mlx_node_namer_set_name(self.raw, array.as_raw(), name.as_ptr()) }
        })
    }

    /// The name of an array, which gets the next letter if it had none.
    ///
    /// # Errors
    /// Memory is short.
    pub fn name(&mut self, array: &Array) -> Result<String> {
        let mut name: *const c_char = std::ptr::null();
        call::status("name", || {
            // SAFETY: both handles are live.
            unsafe { sys::mlx_node_namer_get_name(&raw mut name, self.raw, array.as_raw()) }
        })?;
        // SAFETY: the name is a C string that lives in the namer, and is copied at once.
        Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }
}

impl Default for NodeNamer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NodeNamer {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        unsafe { sys::mlx_node_namer_free(self.raw) };
    }
}

/// The graph that computes `outputs`, in the DOT language of Graphviz.
///
/// # Errors
/// [`ErrorKind::Runtime`] if the system has no room for a temporary file.
pub fn export_to_dot<A: AsRef<Array>>(namer: &mut NodeNamer, outputs: &[A]) -> Result<String> {
    text("export_to_dot", outputs, |file, outputs| {
        // SAFETY: the file is open, and the handles are live.
        unsafe { sys::mlx_export_to_dot(file, namer.raw, outputs) }
    })
}

/// The graph that computes `outputs`, an operation a line.
///
/// # Errors
/// [`ErrorKind::Runtime`] if the system has no room for a temporary file.
pub fn print_graph<A: AsRef<Array>>(namer: &mut NodeNamer, outputs: &[A]) -> Result<String> {
    text("print_graph", outputs, |file, outputs| {
        // SAFETY: the file is open, and the handles are live.
        unsafe { sys::mlx_print_graph(file, namer.raw, outputs) }
    })
}

/// A temporary file of the C library, which is gone when it is closed.
struct Scratch(*mut libc::FILE);

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: closes the file that we opened, once.
        unsafe { libc::fclose(self.0) };
    }
}

fn text<A: AsRef<Array>>(
    op: &'static str,
    outputs: &[A],
    write: impl FnOnce(*mut sys::FILE, sys::mlx_vector_array) -> c_int,
) -> Result<String> {
    let failed = || Error::Mlx {
        kind: ErrorKind::Runtime,
        op,
        message: format!("no temporary file: {}", std::io::Error::last_os_error()),
    };
    let outputs = VectorArray::from_arrays(outputs)?;
    // SAFETY: makes a file, or null.
    let file = Scratch(unsafe { libc::tmpfile() });
    if file.0.is_null() {
        std::mem::forget(file);
        return Err(failed());
    }
    call::status(op, || write(file.0.cast(), outputs.as_raw()))?;
    // SAFETY: the file is open; `bytes` has room for what is read.
    unsafe {
        let length = libc::ftell(file.0);
        if libc::fflush(file.0) != 0 || length < 0 {
            return Err(failed());
        }
        libc::rewind(file.0);
        let mut bytes = vec![0_u8; length as usize];
        if libc::fread(bytes.as_mut_ptr().cast(), 1, bytes.len(), file.0) != bytes.len() {
            return Err(failed());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
