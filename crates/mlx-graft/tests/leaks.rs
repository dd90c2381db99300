//! Handles and bytes return to their start. One test, as the counters are the process's.

use mlx_graft::{Array, Error, Result, live_handles, memory, ops, transforms};

fn square_sum(inputs: &[Array]) -> Result<Vec<Array>> {
    Ok(vec![ops::sum(&ops::square(&inputs[0])?, false)?])
}

fn one_round(x: &Array) -> Result<()> {
    let (value, grads) = transforms::value_and_grad(square_sum, &[0], &[x])?;
    transforms::eval(&[&value[0], &grads[0]])?;
    let compiled = transforms::compile(square_sum, false)?;
    compiled.call(&[x])?[0].item::<f32>()?;
    let failing = |_: &[Array]| Err(Error::invalid_argument("test", "fails"));
    assert!(transforms::grad(failing, &[0], &[x]).is_err());
    assert!(ops::reshape(x, &[7]).is_err());
    transforms::vmap(square_sum, &[x], &[Some(0)], &[Some(0)])?[0].eval()
}

#[test]
fn a_thousand_rounds_leave_nothing() {
    let x = Array::from_slice(&[0.5_f32; 4096], &[64, 64]).unwrap();
    for _ in 0..10 {
        one_round(&x).unwrap();
    }
    let before = (live_handles(), memory::active().unwrap());
    for _ in 0..1000 {
        one_round(&x).unwrap();
    }
    assert_eq!((live_handles(), memory::active().unwrap()), before);
}
