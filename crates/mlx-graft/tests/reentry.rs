//! Code of others that runs in the middle of a call of MLX: destructors, comparisons, answers.

#[macro_use]
#[path = "common/identity.rs"]
mod identity;
#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mlx_graft::primitive::{Primitive, apply};
use mlx_graft::transforms::{self, Compiled, CustomFunction};
use mlx_graft::{Array, Dtype, ErrorKind, Result, ops};

/// Reads an array when it is dropped.
struct Spy {
    array: Array,
    seen: Rc<RefCell<Vec<f32>>>,
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.seen.borrow_mut().extend_from_slice(&self.array.as_slice::<f32>().unwrap());
    }
}

#[test]
fn what_an_evaluated_graph_held_is_dropped_when_all_is_computed() {
    let evaluations: [fn(&Array) -> Result<()>; 3] =
        [Array::eval, |y| transforms::eval(&[y]), |y| y.as_slice::<f32>().map(drop)];
    for evaluate in evaluations {
        let ones =
            ops::full(&[512, 512], &Array::scalar(1.0_f32).unwrap(), Dtype::Float32).unwrap();
        ones.eval().unwrap();
        let array = ops::matmul(&ones, &ones).unwrap();
        let seen = Rc::default();
        let spy = Spy { array: array.clone(), seen: Rc::clone(&seen) };
        let f = CustomFunction::new(|x| Ok(vec![ops::negative(&x[0])?])).vjp(move |_, dy, _| {
            let _ = &spy;
            Ok(dy.to_vec())
        });
        let y = f.call(&[&array]).unwrap().remove(0);
        drop(f);
        evaluate(&y).unwrap();
        drop(y);
        let seen = seen.borrow();
        assert_eq!(seen.len(), 512 * 512);
        assert!(seen.iter().all(|x| x.to_bits() == 512.0_f32.to_bits()));
    }
}

thread_local! {
    static OUTPUT: RefCell<Option<Array>> = const { RefCell::new(None) };
    static COMPILED: RefCell<Option<Rc<Compiled>>> = const { RefCell::new(None) };
    static REFUSED: Cell<u32> = const { Cell::new(0) };
}

/// The identity, which evaluates its own output when it is asked what that updates.
#[derive(PartialEq)]
struct Curious;

impl Primitive for Curious {
    const NAME: &'static str = "curious";

    identity!();

    fn updates(&self, _: usize) -> Option<usize> {
        let output = OUTPUT.with_borrow(Option::clone);
        if let Some(output) = output {
            output.eval().unwrap();
        }
        None
    }

    no_transforms!();
}

#[test]
fn what_is_updated_is_asked_before_the_evaluation() {
    let x = ops::ones(&[3], Dtype::Float32).unwrap();
    let y = apply(Curious, &[&x]).unwrap().remove(0);
    OUTPUT.set(Some(y.clone()));
    y.eval().unwrap();
    OUTPUT.set(None);
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0; 3]);
}

/// The identity, which calls the function that is compiled when it is compared.
struct Jealous;

impl PartialEq for Jealous {
    fn eq(&self, _: &Self) -> bool {
        let compiled = COMPILED.with_borrow(Option::clone);
        for length in 2..40 {
            let x = ops::zeros(&[length], Dtype::Float32).unwrap();
            if let Some(Err(error)) = compiled.as_ref().map(|f| f.call(&[x])) {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
                REFUSED.set(REFUSED.get() + 1);
            }
        }
        true
    }
}

impl Primitive for Jealous {
    const NAME: &'static str = "jealous";

    identity!();

    no_transforms!();
}

#[test]
fn a_comparison_cannot_add_traces_to_the_function_that_is_traced() {
    let twice = |x: &[Array]| {
        let [a, b] = [apply(Jealous, &[&x[0]])?.remove(0), apply(Jealous, &[&x[0]])?.remove(0)];
        Ok(vec![ops::add(&a, &ops::exp(&b)?)?])
    };
    let f = Rc::new(transforms::compile(twice, false).unwrap());
    COMPILED.set(Some(f.clone()));
    let y = f.call(&[ops::zeros(&[1], Dtype::Float32).unwrap()]).unwrap();
    COMPILED.set(None);
    assert!(REFUSED.get() > 0, "MLX compared the two");
    assert_eq!(y[0].to_vec::<f32>().unwrap(), [1.0]);
}
