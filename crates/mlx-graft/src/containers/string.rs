//! Texts.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::fmt;
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Result, call, sys};

/// A text on the C++ side.
///
/// ```
/// use mlx_graft::containers::Text;
///
/// let text = Text::from_text("weights")?;
/// assert_eq!(text.to_string(), "weights");
/// assert_eq!(text.clone(), text);
/// assert!(Text::from_text("a\0b").is_err());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub struct Text {
    raw: sys::mlx_string,
    _live: Live,
}

impl Text {
    /// An empty text.
    pub fn new() -> Self {
        call::ready();
        // SAFETY: makes a handle, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_string_new() }, _live: Live::new() }
    }

    /// A copy of `text`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if it contains a zero byte.
    pub fn from_text(text: &str) -> Result<Self> {
        const OP: &str = "string";
        let text = call::c_string(OP, text)?;
        call::ready();
        // SAFETY: `text` is a C string for the length of the call, which copies it.
        let raw = unsafe { sys::mlx_string_new_data(text.as_ptr()) };
        call::status(OP, || c_int::from(raw.ctx.is_null()))?;
        Ok(Self { raw, _live: Live::new() })
    }

    /// The handle, for a C call; it stays this value's.
    pub fn as_raw(&self) -> sys::mlx_string {
        self.raw
    }

    /// The place of the handle, for a C call that fills it.
    pub fn as_mut_raw(&mut self) -> *mut sys::mlx_string {
        &raw mut self.raw
    }

    /// Gives up the handle, which the caller frees.
    pub(crate) fn into_raw(mut self) -> sys::mlx_string {
        std::mem::replace(&mut self.raw, sys::mlx_string { ctx: null_mut() })
    }

    fn as_c_str(&self) -> &CStr {
        if self.raw.ctx.is_null() {
            return c"";
        }
        // SAFETY: the handle is live, and its characters live as long as it.
        unsafe { CStr::from_ptr(sys::mlx_string_data(self.raw)) }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Text {
    fn clone(&self) -> Self {
        let mut text = Self::new();
        if !self.raw.ctx.is_null() {
            // SAFETY: both handles are valid. Copying fails only for want of memory, and leaves an
            // empty text then.
            unsafe { sys::mlx_string_set(&raw mut text.raw, self.raw) };
        }
        text
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_c_str() == other.as_c_str()
    }
}

impl Eq for Text {}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_c_str().to_string_lossy())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_c_str().fmt(f)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once; a null one is a no-op.
        unsafe { sys::mlx_string_free(self.raw) };
    }
}
