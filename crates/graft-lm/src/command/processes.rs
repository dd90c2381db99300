//! Several processes of one training.

use std::env;

use mlx_graft::distributed::{self, Backend};

use crate::{Error, Result};

/// Fails where `mlx.launch` or `mpirun` started several processes: all would write the same files.
///
/// # Errors
/// [`Error::Unsupported`] with the number of processes.
pub fn refuse_many_processes() -> Result<()> {
    // What the launcher tells comes first: MLX sees one process under an MPI that it cannot load.
    let told = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MLX_WORLD_SIZE"];
    let told = told.iter().filter_map(|name| env::var(name).ok()?.parse::<usize>().ok());
    let mut size = told.max().unwrap_or(1);
    // Looking for the others takes a while, so only where something says that there are.
    let mut ranks = ["MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"].iter();
    if size <= 1 && ranks.any(|name| env::var_os(name).is_some()) {
        size = distributed::init(false, Backend::Any)?.size()?;
    }
    if size <= 1 {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "training across {size} processes is not built here; start one, without mlx.launch or \
         mpirun"
    )))
}
