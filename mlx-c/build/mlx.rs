//! Finds the MLX runtime: headers and `libmlx`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version this crate is written for. The C++ ABI of MLX is not stable: another one may
/// compile and still crash.
pub const VERSION: &str = "0.32.2";

/// Where MLX lies.
pub struct Mlx {
    /// The folder that holds `mlx/mlx.h`.
    pub include: PathBuf,
    /// The folder that holds `libmlx`.
    pub lib: PathBuf,
    /// Its version, always [`VERSION`].
    pub version: String,
}

/// Looks in `MLX_DIR`, then in the `mlx` package of the active Python.
pub fn find() -> Result<Mlx, String> {
    println!("cargo:rerun-if-env-changed=MLX_DIR");
    if let Some(dir) = env::var_os("MLX_DIR") {
        let dir = PathBuf::from(dir);
        return at(&dir).map_err(|e| format!("MLX_DIR is {}: {e}", dir.display()));
    }
    for name in ["PYO3_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let python = interpreter();
    let script = "import importlib.util as u; s = u.find_spec('mlx'); \
                  print(*(s.submodule_search_locations if s else []), sep='\\n')";
    let output = Command::new(&python).args(["-c", script]).output().map_err(|e| {
        format!(
            "cannot run {} to find MLX: {e}. Set PYO3_PYTHON to a Python that has \
             mlx=={VERSION}, or MLX_DIR to a folder with MLX's include/ and lib/.",
            python.display()
        )
    })?;
    let folders = String::from_utf8_lossy(&output.stdout).into_owned();
    // `mlx` is a namespace package: several folders may share the name, one holds the runtime.
    let mut reason = "it has no `mlx` package".to_string();
    for folder in folders.lines().filter(|line| !line.is_empty()) {
        match at(Path::new(folder)) {
            Ok(found) => return Ok(found),
            Err(e) => reason = e,
        }
    }
    Err(format!(
        "no usable MLX for {}: {reason}. Run `{0} -m pip install 'mlx[cpu]=={VERSION}'` \
         (`mlx[cuda12]` on a CUDA machine, `mlx` on a Mac), set PYO3_PYTHON to another Python, \
         or set MLX_DIR to a folder with MLX's include/ and lib/.",
        python.display()
    ))
}

fn interpreter() -> PathBuf {
    if let Some(python) = env::var_os("PYO3_PYTHON") {
        return python.into();
    }
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = env::var_os(name) {
            return Path::new(&prefix).join("bin/python");
        }
    }
    // The environment that `make` creates at the root of this project.
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    if local.exists() { local } else { "python3".into() }
}

fn at(dir: &Path) -> Result<Mlx, String> {
    let header = dir.join("include/mlx/version.h");
    let text = fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    println!("cargo:rerun-if-changed={}", header.display());
    let part = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("#define MLX_VERSION_{name} ")))
            .map(|value| value.trim().to_string())
            .ok_or(format!("{}: no MLX_VERSION_{name}", header.display()))
    };
    let version = [part("MAJOR")?, part("MINOR")?, part("PATCH")?].join(".");
    if version != VERSION {
        return Err(format!(
            "{} is MLX {version}; this build needs {VERSION} exactly, as MLX's C++ interface \
             changes between versions",
            dir.display()
        ));
    }
    let lib = dir.join("lib");
    let names = ["libmlx.so", "libmlx.dylib"];
    if !names.iter().any(|name| lib.join(name).exists()) {
        return Err(format!("{} holds no {}", lib.display(), names.join(" or ")));
    }
    let lib = lib.canonicalize().map_err(|e| format!("{}: {e}", lib.display()))?;
    Ok(Mlx { include: dir.join("include"), lib, version })
}
