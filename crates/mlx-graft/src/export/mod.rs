//! Functions as files, and graphs as text.
//!
//! An exported function is the graph of a trace, with the arrays that it captured. Files cross with
//! Python's `mx.export_function` and `mx.import_function` both ways. An operation written in Rust
//! ([`primitive`](crate::primitive)) cannot be exported: use MLX's own in what is.
//!
//! A file is a program: its header is checked, and a file that is cut short is refused, but what
//! its operations do is not, except that no index of theirs may be out of range. Import only what
//! you trust.
//!
//! ```
//! use mlx_graft::{Array, export, ops};
//!
//! let path = std::env::temp_dir().join("mlx-graft-doc.mlxfn");
//! let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
//! export::export_function(&path, |x| Ok(vec![ops::square(&x[0])?]), &[&x], false)?;
//! let square = export::import_function(&path)?;
//! assert_eq!(square.call(&[&x])?[0].to_vec::<f32>()?, [1.0, 4.0]);
//! # let _ = std::fs::remove_file(path);
//! # Ok::<(), mlx_graft::Error>(())
//! ```

mod callback;
mod exporter;
mod graph;
mod imported;

pub use callback::{Argument, GraphArray, GraphPart, export_function_with};
pub use exporter::{Exporter, export_function, export_function_kwargs};
pub use graph::{NodeNamer, export_to_dot, print_graph};
pub use imported::{ImportedFunction, import_function};
