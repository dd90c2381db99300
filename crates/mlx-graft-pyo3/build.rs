//! Compiles the nanobind half of the crate and links it in.
//!
//! `mlx.core` is a nanobind module. Only nanobind of the same internals version and domain shares
//! its types, so the version is pinned with that of MLX.

use std::path::PathBuf;
use std::process::Command;

/// The version that the mlx wheel is built with.
const NANOBIND: &str = "2.15.0";

fn main() {
    if let Err(message) = build() {
        eprintln!("\nerror: {message}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    if std::env::var_os("DOCS_RS").is_some() {
        // docs.rs has no nanobind, and links nothing.
        return Ok(());
    }
    let python = pyo3_build_config::get()
        .executable()
        .map(str::to_string)
        .ok_or("PyO3 found no Python interpreter: set PYO3_PYTHON")?;
    let script = "import sysconfig, nanobind; print(sysconfig.get_path('include'), \
                  nanobind.source_dir(), nanobind.include_dir(), nanobind.__version__, sep='\\n')";
    let output = Command::new(&python)
        .args(["-c", script])
        .output()
        .map_err(|e| format!("cannot run {python}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let &[python_include, source, include, version] = lines.as_slice() else {
        return Err(format!(
            "{python} has no nanobind: run `{python} -m pip install nanobind=={NANOBIND}`.\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    };
    if version != NANOBIND {
        return Err(format!(
            "{python} has nanobind {version}; the mlx wheel is built with {NANOBIND}, and only the \
             same version shares its array type: run `{python} -m pip install nanobind=={NANOBIND}`"
        ));
    }
    let source = PathBuf::from(source);
    let mlx = std::env::var("DEP_MLXC_MLX_INCLUDE")
        .map_err(|_| "mlx-c-sys did not say where MLX's headers are")?;
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .warnings(false)
        .flag_if_supported("-fvisibility=hidden")
        .flag_if_supported("-fno-strict-aliasing")
        .define("NB_DOMAIN", "mlx")
        .define("NDEBUG", None)
        .include(python_include)
        .include(include)
        .include(source.join("../ext/robin_map/include"))
        .include(mlx)
        .file(source.join("nb_combined.cpp"))
        .file("native/bridge.cpp")
        .try_compile("graft_bridge")
        .map_err(|e| e.to_string())?;
    Ok(())
}
