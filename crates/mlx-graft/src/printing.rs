//! How arrays are printed, by `Display` here and by `repr` in Python.
#![allow(unsafe_code)]

use crate::{Result, call, sys};

/// How arrays are printed, of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrintOptions {
    /// The number of decimal places; a negative one for as many as MLX sees fit.
    pub precision: i32,
}

impl Default for PrintOptions {
    fn default() -> Self {
        Self { precision: -1 }
    }
}

impl PrintOptions {
    /// The options in force.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn current() -> Result<Self> {
        let mut precision = 0;
        call::status("get_printoptions", || {
            // SAFETY: writes one integer.
            unsafe { sys::graft_get_print_precision(&raw mut precision) }
        })?;
        Ok(Self { precision })
    }

    /// Puts the options in force.
    ///
    /// # Errors
    /// What MLX reports.
    ///
    /// ```
    /// use mlx_graft::{Array, printing::PrintOptions};
    ///
    /// let x = Array::scalar(1.0_f32 / 3.0)?;
    /// PrintOptions { precision: 3 }.set()?;
    /// assert_eq!(x.to_string(), "array(0.333, dtype=float32)");
    /// PrintOptions::default().set()?;
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn set(self) -> Result<()> {
        call::status("set_printoptions", || {
            // SAFETY: takes one integer.
            unsafe { sys::graft_set_print_precision(self.precision) }
        })
    }
}

/// Runs `f` with other options, and puts the former ones back, also after a panic.
///
/// # Errors
/// What MLX reports; `f` has not run then.
///
/// ```
/// use mlx_graft::{Array, printing::{PrintOptions, with_print_options}};
///
/// let x = Array::scalar(2.0_f32 / 3.0)?;
/// let text = with_print_options(PrintOptions { precision: 2 }, || x.to_string())?;
/// assert_eq!(text, "array(0.67, dtype=float32)");
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn with_print_options<R>(options: PrintOptions, f: impl FnOnce() -> R) -> Result<R> {
    struct Restore(PrintOptions);

    impl Drop for Restore {
        fn drop(&mut self) {
            // They were in force a moment ago, so this cannot fail; a drop must not panic.
            let _ = self.0.set();
        }
    }

    let _restore = Restore(PrintOptions::current()?);
    options.set()?;
    Ok(f())
}
