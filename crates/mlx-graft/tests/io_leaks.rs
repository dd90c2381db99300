//! Handles, bytes and open files return to their start, also after failures. One test, as the
//! counters are the process's.

#[path = "leaks/thread.rs"]
mod thread;

use std::fs;
use std::io::Cursor;

use mlx_graft::io::{self, Compression, GgufValue};
use mlx_graft::{Array, live_handles, memory, transforms};

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn one_round(folder: &std::path::Path, x: &Array) {
    let [npy, npz, tensors, gguf] =
        ["x.npy", "x.npz", "x.safetensors", "x.gguf"].map(|name| folder.join(name));
    let mut bytes = Vec::new();
    io::save_to(&mut bytes, x).unwrap();
    let text = GgufValue::Strings(vec!["a".into(), "b".into()]);
    io::save_npz(&npz, [("x", x)], Compression::Deflated).unwrap();
    io::save_safetensors(&tensors, [("x", x)], [("format", "mlx")]).unwrap();
    io::save_gguf(&gguf, [("x", x)], [("text", &text)]).unwrap();
    let loaded = [
        io::load_from(Cursor::new(bytes.clone())).unwrap(),
        io::load_npz(&npz).unwrap().remove("x").unwrap(),
        io::load_safetensors(&tensors).unwrap().arrays.remove("x").unwrap(),
        io::load_gguf(&gguf).unwrap().arrays.remove("x").unwrap(),
    ];
    transforms::eval(&loaded).unwrap();
    // Some are never evaluated, and some fail when they are.
    drop(io::load_npz(&npz).unwrap());
    fs::write(&npy, &bytes[..bytes.len() - 1]).unwrap();
    assert!(io::load(&npy).unwrap().eval().is_err());
    for path in [&npz, &tensors, &gguf] {
        let whole = fs::read(path).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    assert!(io::load_npz(&npz).is_err());
    assert!(io::load_safetensors(&tensors).is_err());
    assert!(io::load_gguf(&gguf).is_err());
    assert!(io::save(folder.join("no/x.npy"), x).is_err());
}

#[test]
fn many_rounds_leave_nothing() {
    thread::off_the_first_thread(repeat_rounds);
}

fn repeat_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let x = Array::from_slice(&[0.5_f32; 512], &[512]).unwrap();
    for _ in 0..5 {
        one_round(folder.path(), &x);
    }
    let count = || (live_handles(), memory::active().unwrap(), open_files());
    let before = count();
    for _ in 0..50 {
        one_round(folder.path(), &x);
    }
    // A thread of MLX lets go of a file a moment after the evaluation that read it.
    for _ in 0..100 {
        if count() == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(count(), before);
}
