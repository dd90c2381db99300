//! A profile evaluates as `eval` does, and says of every operation what it did.

#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;
#[path = "common/main_thread.rs"]
mod main_thread;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use main_thread::away_from_the_main_thread;
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::profile::{self, Operation, Timing};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, live_handles, memory, ops, transforms};

const TIMINGS: [Timing; 2] = [Timing::Together, Timing::Apart];

/// Memory and handles are counted for the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    // The first of all: a later thread may pass for one that has ended.
    away_from_the_main_thread();
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(operations: &[Operation]) -> Vec<&str> {
    operations.iter().map(|operation| operation.name.as_str()).collect()
}

fn ones(shape: &[i32]) -> Result<Array> {
    let array = ops::ones(shape, Dtype::Float32)?;
    array.eval()?;
    Ok(array)
}

/// Takes as long as it is told to, or fails.
#[derive(PartialEq)]
struct Sleep {
    milliseconds: u64,
    fails: bool,
}

impl Primitive for Sleep {
    const NAME: &'static str = "sleep";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        std::thread::sleep(Duration::from_millis(self.milliseconds));
        outputs[0].as_mut_slice::<f32>()?.copy_from_slice(inputs[0].as_slice::<f32>()?);
        if self.fails { Err(KernelError::new("overslept")) } else { Ok(()) }
    }

    no_transforms!();
}

fn sleep(x: &Array, milliseconds: u64, fails: bool) -> Result<Array> {
    Ok(apply(Sleep { milliseconds, fails }, &[x])?.remove(0))
}

#[test]
fn values_shapes_and_memory_are_told() -> Result<()> {
    let _alone = alone();
    for timing in TIMINGS {
        let (a, b) = (ones(&[2, 3])?, ones(&[3, 5])?);
        let product = ops::matmul(&a, &b)?;
        let row = ops::broadcast_to(&ones(&[1, 5])?, &[2, 5])?;
        let y = ops::add(&product, &row)?;
        let profile = profile::eval(&[&y, &product], timing)?;
        assert_eq!(y.to_vec::<f32>()?, [4.0; 10]);
        assert_eq!(product.to_vec::<f32>()?, [3.0; 10]);

        let find = |name: &str| {
            let mut found = profile.operations.iter().filter(|operation| operation.name == name);
            let only = found.next().unwrap();
            assert!(found.next().is_none());
            only
        };
        let matmul = find("Matmul");
        let shapes: Vec<&[i32]> = matmul.inputs.iter().map(|input| &*input.shape).collect();
        assert_eq!(shapes, [&[2, 3], &[3, 5]]);
        assert_eq!(matmul.outputs[0].bytes, 40);
        assert_eq!(matmul.outputs[0].dtype, Dtype::Float32);
        assert!(matmul.outputs[0].buffer_bytes >= 40 && matmul.outputs[0].kept);
        let add = find("Add");
        assert_eq!(add.inputs[0].buffer, matmul.outputs[0].buffer);
        // The row lies in memory once.
        assert_eq!((add.inputs[1].shape.as_slice(), add.inputs[1].bytes), (&[2, 5][..], 20));
        assert!(!add.inputs[1].kept && add.outputs[0].kept);
    }
    Ok(())
}

#[test]
fn times_are_those_of_the_operations() -> Result<()> {
    let _alone = alone();
    for timing in TIMINGS {
        let x = ones(&[4])?;
        let y = sleep(&ops::exp(&sleep(&x, 30, false)?)?, 60, false)?;
        let profile = profile::eval(&[&y], timing)?;
        let work: Vec<&Operation> =
            profile.operations.iter().filter(|op| op.name != "Contiguous").collect();
        let took: Vec<u128> = work.iter().map(|op| op.elapsed().as_millis()).collect();
        assert_eq!(work.iter().map(|op| &*op.name).collect::<Vec<_>>(), ["sleep", "Exp", "sleep"]);
        assert!(took[0] >= 30 && took[1] < 30 && took[2] >= 60, "{took:?}");
        let mut end = Duration::ZERO;
        for operation in &profile.operations {
            assert!(operation.start >= end, "one after the other");
            end = operation.end;
        }
        assert!(end <= profile.elapsed);
        let sum: Duration = profile.operations.iter().map(Operation::elapsed).sum();
        assert!(sum >= Duration::from_millis(90) && sum <= profile.elapsed);
    }
    Ok(())
}

#[test]
fn each_operation_is_told_once_and_what_is_there_already_never() -> Result<()> {
    let _alone = alone();
    for timing in TIMINGS {
        let x = ones(&[4])?;
        let parts = ops::divmod(&x, &x)?;
        let sum = ops::add(&parts[0], &parts[1])?;
        let square = ops::square(&sum)?;
        let both = ops::multiply(&square, &sum)?;
        let profile = profile::eval(&[&both, &parts[1], &both], timing)?;
        assert_eq!(names(&profile.operations), ["DivMod", "Add", "Square", "Multiply"]);
        assert_eq!(profile.operations[0].outputs.len(), 2);
        let again = profile::eval(&[&both, &x], timing)?;
        assert!(again.operations.is_empty());
        let after = profile::eval(&[&ops::exp(&both)?], timing)?;
        assert_eq!(names(&after.operations), ["Exp"]);
    }
    Ok(())
}

#[test]
fn what_was_compiled_is_told_as_it_runs_and_stays_as_it_was() -> Result<()> {
    let _alone = alone();
    let f = transforms::compile(
        |x: &[Array]| Ok(vec![ops::exp(&ops::square(&ops::matmul(&x[0], &x[0])?)?)?]),
        false,
    )?;
    let x = ones(&[2, 2])?;
    for timing in TIMINGS {
        let y = f.call(&[&x])?.remove(0);
        let found = profile::eval(&[&y], timing)?;
        let names = names(&found.operations);
        assert_eq!(names[0], "Matmul");
        let fused = names.len() == 2 && names[1].starts_with("Compiled");
        assert!(fused || names == ["Matmul", "Square", "Exp"], "{names:?}");
        // The next call has operations of its own, which nobody watches.
        let y = f.call(&[&x])?.remove(0);
        transforms::eval(&[&y])?;
        assert!((y.to_vec::<f32>()?[0] - 4.0_f32.exp()).abs() < 1e-3);
    }
    Ok(())
}

#[test]
fn memory_is_freed_and_written_over_as_in_any_evaluation() -> Result<()> {
    let _alone = alone();
    let x = ones(&[1 << 20])?;
    let chain = || -> Result<Array> {
        let mut y = x.clone();
        for _ in 0..6 {
            y = ops::exp(&ops::negative(&y)?)?;
        }
        Ok(y)
    };
    let peak = |evaluate: &dyn Fn(&Array) -> Result<()>| -> Result<usize> {
        let y = chain()?;
        let before = memory::active()?;
        memory::reset_peak()?;
        evaluate(&y)?;
        Ok(memory::peak()? - before)
    };
    let plain = peak(&|y| transforms::eval(&[y]))?;
    for timing in TIMINGS {
        let profiled = peak(&|y| profile::eval(&[y], timing).map(drop))?;
        assert_eq!(profiled, plain, "{timing:?}");
    }
    Ok(())
}

#[test]
fn failures_come_out_and_nothing_stays() -> Result<()> {
    let _alone = alone();
    let handles = live_handles();
    for timing in TIMINGS {
        let x = ones(&[4])?;
        let y = ops::exp(&sleep(&x, 0, true)?)?;
        let error = profile::eval(&[&y], timing).unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
        let z = profile::eval(&[&ops::exp(&x)?], timing)?;
        assert_eq!(z.operations.len(), 1);
    }
    assert_eq!(live_handles(), handles);
    Ok(())
}

#[test]
fn what_failed_is_evaluated_again_as_if_nobody_had_watched() -> Result<()> {
    let _alone = alone();
    for timing in TIMINGS {
        let x = ones(&[4])?;
        let mut y = ops::add(&sleep(&x, 0, true)?, &sleep(&x, 20, false)?)?;
        for _ in 0..40 {
            y = sleep(&ops::negative(&y)?, 0, false)?;
        }
        let error = profile::eval(&[&y], timing).unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
        let count = profile::eval(&[&y], timing)?.operations.len();
        assert!(count < 125, "what has run is not told again: {count}");
        assert!(y.to_vec::<f32>()?.iter().all(|y| y.is_nan()));
    }
    Ok(())
}

#[test]
fn a_function_that_is_traced_cannot_be_profiled() -> Result<()> {
    let _alone = alone();
    let f = transforms::compile(
        |x: &[Array]| {
            let y = ops::exp(&x[0])?;
            profile::eval(&[&y], Timing::Together)?;
            Ok(vec![y])
        },
        false,
    )?;
    let error = f.call(&[&ones(&[2])?]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    Ok(())
}
