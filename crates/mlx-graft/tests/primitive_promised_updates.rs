//! A primitive whose promise of an update changes fails as it runs. Alone in its process: another test
//! that evaluates at the same time may be told of the failure instead.

#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;
#[path = "common/main_thread.rs"]
mod main_thread;
#[path = "common/numbers.rs"]
mod numbers;

use std::sync::atomic::{AtomicUsize, Ordering};

use main_thread::away_from_the_main_thread;
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Dtype, Error, Result, ops};
use numbers::numbers;

/// Gives other answers each time it is asked what its output is an update of: for the specs, for the
/// memory, for the kernel.
struct Changing {
    answers: [Option<usize>; 3],
    asked: AtomicUsize,
    shape: [i32; 1],
}

impl PartialEq for Changing {
    fn eq(&self, other: &Self) -> bool {
        self.answers == other.answers
    }
}

impl Primitive for Changing {
    const NAME: &'static str = "changing";

    fn output_specs(&self, _: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![ArraySpec::new(self.shape, Dtype::Float32)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let x = inputs[0].as_slice::<f32>()?;
        outputs[0].as_mut_slice::<f32>()?.fill(x.len() as f32);
        Ok(())
    }

    fn updates(&self, _: usize) -> Option<usize> {
        self.answers[self.asked.fetch_add(1, Ordering::Relaxed)]
    }

    no_transforms!();
}

#[test]
fn an_update_of_another_input_than_before_is_an_error() -> Result<()> {
    away_from_the_main_thread();
    let run = |answers, length, dtype| -> Result<Vec<f32>> {
        // What nobody else needs, so that an output may lie there.
        let x = ops::astype(&ops::exp(&numbers(&[length]))?, dtype)?;
        let y = ops::exp(&numbers(&[8]))?;
        let changing = Changing { answers, asked: AtomicUsize::new(0), shape: [8] };
        let out = apply(changing, &[&x, &y])?.remove(0);
        drop((x, y));
        out.to_vec()
    };
    let first = Some(0);
    assert_eq!(run([first; 3], 8, Dtype::Float32)?, [0.0; 8]);
    assert_eq!(run([None; 3], 8, Dtype::Float32)?, [8.0; 8]);
    let changed = [
        ([first, first, None], 8, Dtype::Float32),
        ([first, first, Some(1)], 8, Dtype::Float32),
        ([None, None, first], 1 << 16, Dtype::Float32),
        ([None, None, first], 8, Dtype::Float16),
        ([None, None, Some(2)], 8, Dtype::Float32),
    ];
    for (answers, length, dtype) in changed {
        let error = run(answers, length, dtype).unwrap_err();
        assert!(matches!(&error, Error::Kernel { op, .. } if op == "changing"), "{error:?}");
        assert!(error.to_string().contains("not what it gave before"), "{error}");
    }
    Ok(())
}
