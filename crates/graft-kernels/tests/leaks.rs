//! Ten thousand applications, or `LEAK_REPETITIONS`, leave no handle and no byte behind. One test
//! alone in its process, as it reads counters of the whole process.

#[path = "common/numbers.rs"]
mod common;

use common::numbers;
use mlx_graft::{Array, Device, Result, Stream, live_handles, memory, ops, transforms};

#[test]
fn leaves_nothing_behind() -> Result<()> {
    let (a, b) = (numbers(1, &[8, 16])?, numbers(2, &[16, 8])?);
    transforms::eval(&[&a, &b])?;
    let targets = Array::from_slice(&[0, 1, 2, 3, 4, 5, 6, 7], &[8])?;
    let gradient = transforms::ValueAndGrad::new(
        move |x| {
            let product = graft_kernels::matmul(&x[0], &x[1])?;
            let outer = graft_kernels::linear(&product, &x[1])?;
            let scale = ops::ones(&[16], product.dtype())?;
            let (_, normal) = graft_kernels::add_rms_norm(&outer, &x[0], &scale, 1e-5)?;
            let product = ops::add(&product, &graft_kernels::matmul(&normal, &x[1])?)?;
            let weights = graft_kernels::softmax(&graft_kernels::rms_norm(&product, None, 1e-5)?)?;
            let gated = graft_kernels::swiglu(&product, &weights)?;
            Ok(vec![ops::sum(&graft_kernels::cross_entropy(&gated, &targets)?, false)?])
        },
        &[0, 1],
    )?;
    let stream = Stream::default_of(Device::default_device()?)?;
    let rounds = |n| -> Result<_> {
        for _ in 0..n {
            transforms::eval(&gradient.call(&[&a, &b])?.1)?;
        }
        stream.synchronize()?;
        Ok((live_handles(), memory::active()?))
    };
    let repetitions = match std::env::var("LEAK_REPETITIONS") {
        Ok(text) => text.parse().expect("LEAK_REPETITIONS is no number"),
        Err(_) => 10_000,
    };
    let before = rounds(1)?;
    assert_eq!(rounds(repetitions)?, before);
    Ok(())
}
