//! The lists, maps and strings of mlx-c as Rust values.
//!
//! The functions of this crate take and return slices, vectors and maps of Rust; these types carry
//! them across. They are public for calls into [`sys`](crate::sys) that this crate does not wrap:
//! each owns one handle, frees it once, and copies what goes in and comes out.
//!
//! ```
//! use mlx_graft::Array;
//! use mlx_graft::containers::VectorArray;
//!
//! let mut list = VectorArray::from_arrays(&[Array::scalar(1_i32)?])?;
//! list.push(Array::scalar(2_i32)?)?;
//! assert_eq!(list.len(), 2);
//! assert_eq!(list.get(1)?.item::<i32>()?, 2);
//! # Ok::<(), mlx_graft::Error>(())
//! ```

mod map;
mod string;
mod vector;

pub use map::{MapStringToArray, MapStringToString};
pub use string::Text;
pub use vector::{VectorArray, VectorInt, VectorStream, VectorString, VectorVectorArray};
pub(crate) use vector::{axis, fill, fill_axes, numbers, vec_from_raw};
