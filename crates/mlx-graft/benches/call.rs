//! The cost of one call: an operation of this crate against the same call of mlx-c, in turns.
//!
//! The calls only add nodes to a graph that is never evaluated. `cargo bench --bench call` prints
//! the median of a call and the ratio, once with a stream that is given (in Rust by `on_stream`),
//! and once on the default stream, which either side looks up in each call, as it may change
//! between two calls.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::ptr::null_mut;
use std::time::Instant;

use mlx_graft::stream::on_stream;
use mlx_graft::{Array, Device, Result, Stream, array_to_raw, ops, sys};

const CALLS: u32 = 20_000;
const ROUNDS: usize = 21;

/// The C side of a comparison: everything that a C program does per call.
struct C {
    a: sys::mlx_array,
    b: sys::mlx_array,
    stream: sys::mlx_stream,
    /// Whether the stream is looked up in each call.
    looks_up: bool,
}

impl C {
    fn new(a: &Array, b: &Array) -> Self {
        let raw = |x: &Array| sys::mlx_array { ctx: array_to_raw(x).cast_mut() };
        // SAFETY: makes a handle, which lives as long as the program.
        let stream = unsafe { sys::mlx_default_cpu_stream_new() };
        Self { a: raw(a), b: raw(b), stream, looks_up: false }
    }

    fn call(&mut self, f: impl FnOnce(&Self, *mut sys::mlx_array) -> i32) {
        if self.looks_up {
            // SAFETY: fills the handle anew.
            assert_eq!(unsafe { sys::graft_get_default_stream(&raw mut self.stream) }, 0);
        }
        let mut res = sys::mlx_array { ctx: null_mut() };
        assert_eq!(f(self, &raw mut res), 0);
        // SAFETY: frees the handle that the call made.
        unsafe { sys::mlx_array_free(black_box(res)) };
    }
}

fn nanoseconds(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        f();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn compare(name: &str, mut rust: impl FnMut(), mut c: impl FnMut()) {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        ours.push(nanoseconds(&mut rust));
        theirs.push(nanoseconds(&mut c));
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let (ours, theirs) = (ours[ROUNDS / 2], theirs[ROUNDS / 2]);
    println!("{name:8}  C {theirs:6.0} ns   Rust {ours:6.0} ns   {:.2}x", ours / theirs);
}

fn main() -> Result<()> {
    println!("a stream that is given");
    on_stream(&Stream::default_of(Device::cpu())?, || compare_all(false))?;
    println!("the default stream");
    compare_all(true)
}

fn compare_all(looks_up: bool) -> Result<()> {
    let a = Array::from_slice(&[1.0_f32; 64], &[8, 8])?;
    let b = Array::from_slice(&[2.0_f32; 64], &[8, 8])?;
    let mut c = C::new(&a, &b);
    c.looks_up = looks_up;
    compare(
        "add",
        || drop(black_box(ops::add(&a, &b).expect("shapes fit"))),
        || {
            // SAFETY: the handles are live.
            c.call(|c, res| unsafe { sys::mlx_add(res, c.a, c.b, c.stream) });
        },
    );
    compare(
        "matmul",
        || drop(black_box(ops::matmul(&a, &b).expect("shapes fit"))),
        || {
            // SAFETY: the handles are live.
            c.call(|c, res| unsafe { sys::mlx_matmul(res, c.a, c.b, c.stream) });
        },
    );
    compare(
        "sum",
        || drop(black_box(ops::sum(&a, false).expect("it has a sum"))),
        || {
            // SAFETY: the handles are live.
            c.call(|c, res| unsafe { sys::mlx_sum(res, c.a, false, c.stream) });
        },
    );
    let shape = [64];
    compare(
        "reshape",
        || drop(black_box(ops::reshape(&a, &shape).expect("the size is the same"))),
        || {
            // SAFETY: the handles are live.
            c.call(|c, res| unsafe { sys::mlx_reshape(res, c.a, shape.as_ptr(), 1, c.stream) });
        },
    );
    Ok(())
}
