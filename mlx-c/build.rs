//! Builds mlx-c 0.7.0 and the extension in `ext/` against the MLX of the active Python.
//!
//! One compilation gives two libraries: a static one for the crates and a shared one for programs
//! in C and for cffi. Both link to the one `libmlx` of the `mlx` package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "build/mlx.rs"]
mod mlx;
#[path = "build/source.rs"]
mod source;

fn main() {
    if let Err(message) = build() {
        // A panic would bury the remedy under a backtrace.
        eprintln!("\nerror: {message}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(var("OUT_DIR")?);
    for watched in ["ext", "compat", "build", "build.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=MLX_C_SOURCE_DIR");
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        // docs.rs has neither MLX nor a network, and links nothing.
        tell_dependents(&out, &out, &out, &out, mlx::VERSION);
        return Ok(());
    }
    let mlx = mlx::find()?;
    let source = source::mlx_c_source(&out)?;

    let files = |dir: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut cpp: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cpp"))
            .collect();
        cpp.sort();
        Ok(cpp)
    };
    let (shared_only, ext): (Vec<_>, Vec<_>) = files(&root.join("ext"))?
        .into_iter()
        .partition(|path| path.file_name().is_some_and(|n| n == "shared_init.cpp"));

    let compiler = |name: &str| {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++20")
            .pic(true)
            .warnings(false)
            .flag("-include")
            .flag(root.join("compat/format.h"))
            .flag("-include")
            .flag(root.join("compat/error.h"))
            .include(&source)
            .include(root.join("ext"))
            .include(&mlx.include)
            // Exceptions and RTTI cross from libmlx, so its classes keep default visibility.
            .out_dir(out.join(name));
        // The kernels live in libmlx; this layer only forwards, and unoptimised C++ would be felt.
        if build.get_compiler().is_like_gnu() || build.get_compiler().is_like_clang() {
            build.opt_level(2).debug(false);
        }
        build
    };
    let mut common = compiler("objects");
    common.files(files(&source.join("mlx/c"))?).files(ext);
    let objects = common.try_compile_intermediates().map_err(|e| e.to_string())?;

    // Cargo passes on the order of the link flags: libmlxc needs libmlx and the C++ runtime.
    cc::Build::new().cpp(true).objects(&objects).try_compile("mlxc").map_err(|e| e.to_string())?;
    println!("cargo:rustc-link-search=native={}", mlx.lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");

    let shared = link_shared(&compiler("shared"), &objects, &shared_only, &mlx, &out)?;
    let include = install_headers(&source, &root, &out)?;
    tell_dependents(&mlx.lib, &shared, &include, &mlx.include, &mlx.version);
    Ok(())
}

/// Tells this crate, and the build scripts of those that depend on it, where everything lies.
fn tell_dependents(
    lib: &Path,
    shared: &Path,
    headers: &Path,
    mlx_include: &Path,
    mlx_version: &str,
) {
    println!("cargo:LIBDIR={}", lib.display());
    println!("cargo:SHARED={}", shared.display());
    println!("cargo:HEADERS={}", headers.display());
    println!("cargo:MLX_INCLUDE={}", mlx_include.display());
    println!("cargo:MLX_VERSION={mlx_version}");
    println!("cargo:rustc-env=MLX_C_SYS_MLX_VERSION={mlx_version}");
}

/// Links `libmlxc.so` (`.dylib`). It finds `libmlx` in the `mlx` package beside ours.
fn link_shared(
    compiler: &cc::Build,
    objects: &[PathBuf],
    shared_only: &[PathBuf],
    mlx: &mlx::Mlx,
    out: &Path,
) -> Result<PathBuf, String> {
    let mac = var("CARGO_CFG_TARGET_OS")? == "macos";
    let dir = out.join("lib");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let library = dir.join(if mac { "libmlxc.dylib" } else { "libmlxc.so" });
    let extra = compiler
        .clone()
        .files(shared_only)
        .try_compile_intermediates()
        .map_err(|e| e.to_string())?;
    let mut link: Command = compiler.get_compiler().to_command();
    link.arg(if mac { "-dynamiclib" } else { "-shared" }).arg("-o").arg(&library);
    link.args(objects).args(&extra).arg("-L").arg(&mlx.lib).arg("-lmlx");
    if mac {
        link.args(["-install_name", "@rpath/libmlxc.dylib"]);
        link.arg("-Wl,-rpath,@loader_path/../../mlx/lib");
    } else {
        link.args(["-Wl,-soname,libmlxc.so", "-Wl,-rpath,$ORIGIN/../../mlx/lib"]);
    }
    let status = link.status().map_err(|e| format!("cannot run the C++ compiler: {e}"))?;
    if status.success() { Ok(library) } else { Err("linking the shared libmlxc failed".into()) }
}

/// Gathers the public headers of mlx-c and of the extension into one include folder.
fn install_headers(source: &Path, root: &Path, out: &Path) -> Result<PathBuf, String> {
    let include = out.join("include");
    for (from, to) in [(source.join("mlx/c"), "mlx/c"), (root.join("ext"), "graft")] {
        let to = include.join(to);
        fs::create_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
        let entries = fs::read_dir(&from).map_err(|e| format!("{}: {e}", from.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|e| e == "h") {
                let name = path.file_name().expect("a file with an extension has a name");
                fs::copy(&path, to.join(name)).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
    }
    Ok(include)
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: build with cargo"))
}
