//! Finds the unmodified C++ source of mlx-c, for the build script and for `cargo xtask gen`.
//!
//! Nothing of upstream is copied into this repository. The registry crate `mlx-sys` carries the
//! source of mlx-c; cargo fetches and verifies it, and the crate itself is never compiled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version of mlx-c, which is that of the registry crate which carries it.
pub const VERSION: &str = "0.7.0";

/// Returns the root of mlx-c's source: the folder that holds `mlx/c/ops.h`.
///
/// It is `MLX_C_SOURCE_DIR` where that is set, else the folder of the registry crate, found by a
/// throw-away manifest below `work_dir`.
pub fn mlx_c_source(work_dir: &Path) -> Result<PathBuf, String> {
    if let Some(dir) = env::var_os("MLX_C_SOURCE_DIR") {
        let dir = PathBuf::from(dir);
        return if is_source(&dir) {
            Ok(dir)
        } else {
            Err(format!(
                "MLX_C_SOURCE_DIR is {}, which holds no mlx/c/ops.h. Set it to the root of \
                 mlx-c {VERSION}'s source, or unset it to take the source from the registry.",
                dir.display()
            ))
        };
    }
    let manifest = throw_away_manifest(work_dir)?;
    // What is there already needs no network.
    let metadata = cargo_metadata(&manifest, &["--offline"])
        .or_else(|_| cargo_metadata(&manifest, &[]))
        .map_err(|e| {
            format!(
                "cannot get the source of mlx-c {VERSION} from the registry crate mlx-sys: {e}. \
                 Without a network, set MLX_C_SOURCE_DIR to the root of mlx-c {VERSION}'s source."
            )
        })?;
    metadata
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter_map(|path| Some(Path::new(path).parent()?.join("src/mlx-c")))
        .find(|dir| is_source(dir))
        .ok_or_else(|| {
            format!("the registry crate mlx-sys {VERSION} holds no src/mlx-c/mlx/c/ops.h")
        })
}

fn is_source(dir: &Path) -> bool {
    dir.join("mlx/c/ops.h").is_file()
}

fn throw_away_manifest(work_dir: &Path) -> Result<PathBuf, String> {
    let dir = work_dir.join("mlx-c-source");
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok::<_, String>(path)
    };
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    write("lib.rs", "")?;
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"mlx-c-source\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [lib]\npath = \"lib.rs\"\n\n\
             [dependencies]\nmlx-sys = {{ version = \"={VERSION}\", default-features = false }}\n\n\
             [workspace]\n"
        ),
    )
}

fn cargo_metadata(manifest: &Path, options: &[&str]) -> Result<String, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .args(options)
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if output.status.success() {
        String::from_utf8(output.stdout).map_err(|e| format!("cargo metadata: {e}"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
    }
}
