//! Kernels that are scheduled get no memory long before they run. One test alone in its process, as
//! it reads counters of the whole process.

#[path = "common/numbers.rs"]
mod common;

use common::numbers;
use mlx_graft::{Result, memory, transforms};

#[test]
fn few_outputs_wait_to_be_computed() -> Result<()> {
    let mut x = numbers(1, &[2048, 1024])?;
    transforms::eval(&[&x])?;
    let bytes = x.nbytes();
    for _ in 0..60 {
        x = graft_kernels::softmax(&x)?;
    }
    let before = memory::active()?;
    memory::reset_peak()?;
    transforms::eval(&[&x])?;
    // One is computed from another, two are scheduled, and what is done with is freed a bit later.
    let most = memory::peak()? - before;
    assert!(most <= 8 * bytes, "{most} bytes, which is {} arrays", most / bytes);
    Ok(())
}
