//! Processes that end while something is still computed.

#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;

use std::env;
use std::process::{Command, exit};
use std::thread::{self, sleep};
use std::time::Duration;

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::stream::on_stream;
use mlx_graft::{Array, Device, Result, Stream, ThreadLocalStream, transforms};

/// Set for the processes that end.
const CHILD: &str = "MLX_GRAFT_TEST_EXIT";

/// Takes its time, and says when it is done.
#[derive(PartialEq)]
struct Slow;

impl Primitive for Slow {
    const NAME: &'static str = "slow";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        sleep(Duration::from_millis(300));
        outputs[0].as_mut_slice::<f32>()?.copy_from_slice(inputs[0].as_slice()?);
        eprint!("computed");
        Ok(())
    }

    no_transforms!();
}

/// Begins to compute, and ends the process.
fn begin_and_end(stream: &str) -> Result<()> {
    let begin = || -> Result<()> {
        let x = apply(Slow, &[&Array::scalar(1.0_f32)?])?.remove(0);
        transforms::async_eval(&[&x])
    };
    match stream {
        "default" => begin()?,
        // Its own stream is gone by the end of the process.
        "of a thread" => thread::spawn(|| Array::scalar(1_i32)?.item::<i32>())
            .join()
            .expect("no panic")
            .and_then(|_| begin())?,
        "thread-local" => on_stream(&ThreadLocalStream::new(Device::cpu())?.stream()?, begin)?,
        _ => on_stream(&Stream::new(Device::cpu())?, begin)?,
    }
    exit(0)
}

#[test]
fn a_process_ends_after_what_it_computes() -> Result<()> {
    if let Ok(stream) = env::var(CHILD) {
        return begin_and_end(&stream);
    }
    let program = env::current_exe().expect("this program has a path");
    for stream in ["default", "of a thread", "new", "thread-local"] {
        let mut child = Command::new(&program);
        child.args(["--exact", "--nocapture", "a_process_ends_after_what_it_computes"]);
        let output = child.env(CHILD, stream).output().expect("the process starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("computed"), "{stream}: {output:?}");
    }
    Ok(())
}
