//! Tells the binary where libmlx is; cargo does not pass link arguments on to dependents.

fn main() {
    let mlx = std::env::var("DEP_MLXC_LIBDIR").expect("mlx-c-sys is a direct dependency");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{mlx}");
}
