//! Handles, bytes and open files return to their start. One test, as the counters are the process's.

use std::fs;

use mlx_graft::export::{self, NodeNamer};
use mlx_graft::{Array, Error, live_handles, memory, ops};

fn one_round(folder: &std::path::Path, x: &Array) {
    let path = folder.join("f.mlxfn");
    let captured = Array::from_slice(&[1.0_f32; 512], &[512]).unwrap();
    let f = move |x: &[Array]| Ok(vec![ops::add(&x[0], &captured)?]);
    export::export_function(&path, f, &[x], false).unwrap();
    let imported = export::import_function(&path).unwrap();
    imported.call(&[x]).unwrap()[0].eval().unwrap();
    assert!(imported.call(&[x, x]).is_err());
    let fails = |_: &[Array]| Err(Error::closure("fails"));
    assert!(export::export_function(&path, fails, &[x], false).is_err());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(export::import_function(&path).is_err());
    export::export_to_dot(&mut NodeNamer::new(), &[ops::exp(x).unwrap()]).unwrap();
}

#[test]
fn rounds_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let x = Array::from_slice(&[0.5_f32; 512], &[512]).unwrap();
    let open_files = || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let count = || (live_handles(), memory::active().unwrap(), open_files());
    for _ in 0..5 {
        one_round(folder.path(), &x);
    }
    let before = count();
    for _ in 0..100 {
        one_round(folder.path(), &x);
    }
    assert_eq!(count(), before);
}
