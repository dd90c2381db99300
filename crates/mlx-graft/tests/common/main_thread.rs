//! Kernels that fail in a test.

use std::sync::Once;

use mlx_graft::{Array, ops};

/// Makes a thread that never ends the one that MLX takes for the main thread, as it does with the
/// first that comes. There MLX throws a failure from whatever it schedules next; on all others,
/// such as those of the tests, from the evaluation that waits.
pub fn away_from_the_main_thread() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let used = Array::scalar(1.0_f32).and_then(|x| ops::exp(&x)?.eval());
            done.send(used.is_ok()).expect("the test waits");
            loop {
                std::thread::park();
            }
        });
        assert!(wait.recv().expect("the thread reports"));
    });
}
