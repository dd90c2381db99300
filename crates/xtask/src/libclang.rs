//! Finds libclang, which reads the C headers.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// Where the loader of libclang looks.
const VARIABLE: &str = "LIBCLANG_PATH";

const REMEDY: &str = "Install it with `pip install libclang==18.1.1` into .venv, or set \
                      LIBCLANG_PATH to the folder that holds it.";

/// Runs this program again with `LIBCLANG_PATH` set, and returns how that went; `None` when it is
/// set already.
///
/// libclang is loaded at run time from the folder in that variable, and setting a variable of the
/// running process is unsafe.
pub fn run_again_with_libclang(root: &Path) -> Result<Option<ExitCode>> {
    if let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        if !holds_libclang(&path) {
            bail!("{VARIABLE} is {}, where no libclang is. {REMEDY}", path.display());
        }
        return Ok(None);
    }
    let program = std::env::current_exe().context("no path of this program")?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, find(root)?)
        .status()
        .context("cannot start this program again")?;
    Ok(Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// The Python interpreters that may have what `make setup` installs, the best first.
pub fn interpreters(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    found.extend(std::env::var_os("PYO3_PYTHON").map(PathBuf::from));
    found.extend(std::env::var_os("VIRTUAL_ENV").map(|v| Path::new(&v).join("bin/python")));
    found.extend([root.join(".venv/bin/python"), PathBuf::from("python3")]);
    found
}

/// The folder of the library inside the Python package `libclang`.
fn find(root: &Path) -> Result<PathBuf> {
    let script = "import importlib.util as u; s = u.find_spec('clang'); \
                  print(*(s.submodule_search_locations if s else []), sep='\\n')";
    for python in interpreters(root) {
        let Ok(output) = Command::new(python).args(["-c", script]).output() else { continue };
        for folder in String::from_utf8_lossy(&output.stdout).lines() {
            let native = Path::new(folder).join("native");
            if holds_libclang(&native) {
                return Ok(native);
            }
        }
    }
    bail!("libclang, which reads the C headers, was not found. {REMEDY}")
}

/// Whether a path is the library, or a folder with it.
fn holds_libclang(path: &Path) -> bool {
    let is_library = |name: &OsStr| name.to_string_lossy().starts_with("libclang");
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().any(|entry| is_library(&entry.file_name())),
        Err(_) => path.is_file() && path.file_name().is_some_and(is_library),
    }
}
