//! Lets the binary find `libmlx`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_MLXC_LIBDIR").unwrap());
}
