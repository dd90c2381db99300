//! Tells the module where the `mlx` package has libmlx, seen from the package of this one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mac = std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos");
    let origin = if mac { "@loader_path" } else { "$ORIGIN" };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{origin}/../mlx/lib");
    pyo3_build_config::add_extension_module_link_args();
}
