//! Raw declarations of [mlx-c](https://github.com/ml-explore/mlx-c) 0.7.0 and of this project's
//! extension of it (`graft_*`), linked to the `libmlx` of the `mlx` Python package.
//!
//! Nothing here is safe to call without reading mlx-c's conventions: handles are freed by hand,
//! a non-zero return value means failure. Use the crate `mlx-graft` instead.
//!
//! A binary that links this crate must find `libmlx` at run time. Its `build.rs` needs one line,
//! as cargo does not pass link arguments on to dependents:
//! ```no_run
//! // build.rs
//! println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_MLXC_LIBDIR").unwrap());
//! ```
#![allow(unsafe_code, missing_docs, non_camel_case_types, non_upper_case_globals, non_snake_case)]
#![allow(clippy::pedantic, clippy::all)]

mod bindings;

pub use bindings::*;

/// The MLX version this crate was built against, for example `0.32.2`.
pub const MLX_VERSION: &str = env!("MLX_C_SYS_MLX_VERSION");
