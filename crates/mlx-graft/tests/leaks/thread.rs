//! Where a test may let any number of evaluations fail.

use mlx_graft::{Array, ops};

/// Runs `f` on another thread than the first that uses MLX.
///
/// After a kernel has failed, MLX raises the error as soon as its first thread hands the stream
/// some more work. A task that it announced just before is then never counted as done, and with
/// more than ten of these the next evaluation waits for ever. Other threads get the error at the
/// end.
pub fn off_the_first_thread<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let one = Array::scalar(1.0_f32).unwrap();
    ops::negative(&one).unwrap().eval().unwrap();
    std::thread::spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
