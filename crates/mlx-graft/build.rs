//! Lets the tests of this crate find `libmlx`; doctests get no link arguments (see docs/rust.md).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_MLXC_LIBDIR").unwrap());
}
