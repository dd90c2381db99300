//! The modes of compilation, which are the process's: alone in a process of its own.

use mlx_graft::transforms::{self, CompileMode};
use mlx_graft::{Array, ops};

#[test]
fn every_mode_computes_the_same() {
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
    for mode in
        [CompileMode::NoSimplify, CompileMode::NoFuse, CompileMode::Disabled, CompileMode::Enabled]
    {
        transforms::set_compile_mode(mode).unwrap();
        let f = transforms::compile(|x| Ok(vec![ops::sum(&ops::square(&x[0])?, false)?]), false)
            .unwrap();
        assert_eq!(f.call(&[&x]).unwrap()[0].to_vec::<f32>().unwrap(), [5.0], "{mode:?}");
    }
}
