//! Functions that MLX calls: their errors and panics come out as themselves, at any depth.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_graft::{Array, Closure, Error, ErrorKind, Result, ops, transforms};

#[derive(Debug, PartialEq)]
struct Mine(i32);

impl fmt::Display for Mine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mine {}", self.0)
    }
}

impl std::error::Error for Mine {}

fn x() -> Array {
    Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap()
}

fn failing(_: &[Array]) -> Result<Vec<Array>> {
    Err(Error::closure(Mine(7)))
}

fn is_mine(error: Error) -> bool {
    match error {
        Error::Closure(inner) => *inner.downcast::<Mine>().unwrap() == Mine(7),
        _ => false,
    }
}

#[test]
fn an_error_keeps_its_type_through_every_transformation() {
    assert!(is_mine(Closure::new(failing).call(&[x()]).unwrap_err()));
    assert!(is_mine(transforms::value_and_grad(failing, &[0], &[x()]).unwrap_err()));
    assert!(is_mine(transforms::vjp(failing, &[x()], &[x()]).unwrap_err()));
    assert!(is_mine(transforms::jvp(failing, &[x()], &[x()]).unwrap_err()));
    assert!(is_mine(transforms::vmap(failing, &[x()], &[Some(0)], &[Some(0)]).unwrap_err()));
    let compiled = transforms::compile(failing, false).unwrap();
    assert!(is_mine(compiled.call(&[x()]).unwrap_err()));
    let nested = |inputs: &[Array]| transforms::checkpoint(failing)?.call(inputs);
    assert!(is_mine(transforms::grad(nested, &[0], &[x()]).unwrap_err()));
}

#[test]
fn a_panic_passes_through_and_the_next_call_is_clean() {
    let panicking = Closure::new(|_| panic!("as planned"));
    let caught = catch_unwind(AssertUnwindSafe(|| panicking.call(&[x()])));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"as planned"));
    assert_eq!(ops::add(&x(), &x()).unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0]);
}

#[test]
fn the_kind_of_the_exception_is_kept() {
    let wrong = Array::from_slice(&[0.0_f32; 3], &[3]).unwrap();
    let error = ops::add(&x(), &wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("cannot be broadcast"), "{error}");
    assert!(!error.to_string().contains(".cpp"), "{error}");
    let error = x().to_vec::<i32>().unwrap_err();
    assert!(matches!(error, Error::Dtype { .. }), "{error}");
    assert!(error.to_string().contains("float32"), "{error}");
}

#[test]
fn gradients_of_several_arguments() {
    let f = |v: &[Array]| Ok(vec![ops::sum(&ops::multiply(&v[0], &v[1])?, false)?]);
    let y = Array::from_slice(&[5.0_f32, 7.0], &[2]).unwrap();
    let grads = transforms::grad(f, &[0, 1], &[x(), y]).unwrap();
    assert_eq!(grads[0].to_vec::<f32>().unwrap(), [5.0, 7.0]);
    assert_eq!(grads[1].to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

/// An error that cannot say what it is.
#[derive(Debug)]
struct Mute;

impl fmt::Display for Mute {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Mute {}

#[test]
fn an_error_whose_text_panics_comes_out_as_itself() {
    let mute = |_: &[Array]| -> Result<Vec<Array>> { Err(Error::closure(Mute)) };
    let error = Closure::new(mute).call(&[x()]).unwrap_err();
    assert!(matches!(error, Error::Closure(inner) if inner.is::<Mute>()));
    let error = transforms::grad(mute, &[0], &[x()]).unwrap_err();
    assert!(matches!(error, Error::Closure(inner) if inner.is::<Mute>()));
    assert_eq!(ops::add(&x(), &x()).unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0]);
}
