//! The threads that kernels share, and memory that they fill together.
//!
//! Generating a token is hundreds of operations of some ten microseconds each, less than it takes to
//! wake a thread. So the caller works too, and waits at the end for those only that have begun, and
//! a thread that has nothing to do looks for more for a moment before it sleeps.
#![allow(unsafe_code)]

use std::any::Any;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::for_each_chunk;

/// How long a thread that has nothing to do looks for work before it sleeps: longer than the short
/// operations between two that are shared, shorter than anybody else would notice.
const LOOK: Duration = Duration::from_micros(100);

/// Set in [`Job::inside`] when nobody may begin any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

static POOL: OnceLock<Pool> = OnceLock::new();

/// The number of threads, with the caller: `RAYON_NUM_THREADS`, or as many as the machine's cores, a
/// container's quota and the process's affinity allow.
pub(crate) fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|wanted| wanted.parse().ok());
        let wanted = wanted.filter(|&threads| threads > 0);
        wanted.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get))
    })
}

/// Runs `work` on this thread and, as far as they have time, on up to `others` more.
///
/// # Panics
/// As `work` does, on whichever thread.
pub(crate) fn share(others: usize, work: &(dyn Fn() + Sync)) {
    let others = others.min(threads() - 1);
    if others == 0 {
        return work();
    }
    let pool = POOL.get_or_init(Pool::start);
    // SAFETY: only the lifetime changes. Other threads call it in `Job::join` only, while they are
    // counted in `inside`, and `Closing` waits until nobody is, also if `work` panics here.
    let work =
        unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
    let job = Arc::new(Job {
        work,
        inside: AtomicUsize::new(0),
        caller: thread::current(),
        panic: Mutex::new(None),
    });
    {
        let _closing = Closing { pool, job: &job };
        pool.offer(&job, others);
        work();
    }
    let panic = lock(&job.panic).take();
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// `size` elements in chunks, each of which a task fills, as [`for_each_chunk`] runs them. A chunk comes
/// as copies of `zero`, written by the thread that fills it: a thread that wrote all of them before
/// would take as long as memory does, and the others would wait.
pub(crate) fn filled<T: Copy + Send + Sync>(
    size: usize,
    chunk: usize,
    zero: T,
    parallel: bool,
    task: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut data = Vec::with_capacity(size);
    let unwritten: &mut [MaybeUninit<T>] = &mut data.spare_capacity_mut()[..size];
    for_each_chunk(unwritten, chunk, parallel, |i, chunk| {
        chunk.fill(MaybeUninit::new(zero));
        // SAFETY: all of its elements have just been written.
        task(i, unsafe { chunk.assume_init_mut() });
    });
    // SAFETY: the chunks are the first `size` elements, and each task has written all of its own.
    unsafe { data.set_len(size) };
    data
}

/// Work that a caller shares.
struct Job {
    work: &'static (dyn Fn() + Sync),
    /// How many other threads are at it, and [`CLOSED`].
    inside: AtomicUsize,
    caller: Thread,
    /// What the first panic of another thread carried.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job {
    /// Does the work, unless the caller is done with it.
    fn join(&self) {
        let begin = |inside| (inside & CLOSED == 0).then_some(inside + 1);
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, begin).is_err() {
            return;
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(self.work)) {
            lock(&self.panic).get_or_insert(payload);
        }
        if self.inside.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }
}

/// Ends a job: afterwards no other thread works on it.
struct Closing<'a> {
    pool: &'static Pool,
    job: &'a Arc<Job>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.pool.withdraw(self.job);
        self.job.inside.fetch_or(CLOSED, Ordering::Relaxed);
        let is_over = || self.job.inside.load(Ordering::Acquire) == CLOSED;
        if !look_for(is_over) {
            while !is_over() {
                thread::park();
            }
        }
    }
}

/// The threads besides the callers.
struct Pool {
    offers: Mutex<Offers>,
    /// The number of [`Offers::jobs`], to be read without the lock.
    count: AtomicUsize,
    offered: Condvar,
}

#[derive(Default)]
struct Offers {
    /// Jobs, and how many threads are wanted for each.
    jobs: Vec<(Arc<Job>, usize)>,
    asleep: usize,
}

impl Pool {
    /// Starts the threads, which live as long as the process.
    fn start() -> Self {
        for i in 1..threads() {
            // If the system has no thread left, callers do without.
            let _ = thread::Builder::new()
                .name(format!("graft-kernels-{i}"))
                .spawn(|| POOL.wait().work());
        }
        Self { offers: Mutex::default(), count: AtomicUsize::new(0), offered: Condvar::new() }
    }

    /// What a thread does.
    fn work(&self) -> ! {
        loop {
            let found = look_for(|| self.count.load(Ordering::Relaxed) > 0);
            let mut offers = lock(&self.offers);
            if !found {
                offers.asleep += 1;
                offers = self
                    .offered
                    .wait_while(offers, |offers| offers.jobs.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                offers.asleep -= 1;
            }
            let job = offers.take();
            self.count.store(offers.jobs.len(), Ordering::Relaxed);
            drop(offers);
            if let Some(job) = job {
                job.join();
            }
        }
    }

    fn offer(&self, job: &Arc<Job>, wanted: usize) {
        let mut offers = lock(&self.offers);
        offers.jobs.push((Arc::clone(job), wanted));
        self.count.store(offers.jobs.len(), Ordering::Relaxed);
        let asleep = offers.asleep;
        drop(offers);
        for _ in 0..wanted.min(asleep) {
            self.offered.notify_one();
        }
    }

    fn withdraw(&self, job: &Arc<Job>) {
        let mut offers = lock(&self.offers);
        offers.jobs.retain(|(offered, _)| !Arc::ptr_eq(offered, job));
        self.count.store(offers.jobs.len(), Ordering::Relaxed);
    }
}

impl Offers {
    /// The oldest job, for one thread.
    fn take(&mut self) -> Option<Arc<Job>> {
        let (job, wanted) = self.jobs.first_mut()?;
        *wanted -= 1;
        Some(if *wanted == 0 { self.jobs.remove(0).0 } else { Arc::clone(job) })
    }
}

/// Waits a moment for something, and returns whether it has come. Whoever else has something to do
/// on this core goes first.
fn look_for(is_there: impl Fn() -> bool) -> bool {
    /// Looks between two at the clock.
    const LOOKS: usize = 32;
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if is_there() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() > LOOK {
            return false;
        }
        thread::yield_now();
    }
}

/// What a mutex guards: nothing that panics runs while it is locked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the numbers below `count`, each as a task.
    fn sum(count: usize) -> usize {
        let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return;
                }
                sum.fetch_add(i, Ordering::Relaxed);
            }
        };
        share(7, &work);
        sum.into_inner()
    }

    #[test]
    fn callers_of_several_threads_get_their_own_results() {
        thread::scope(|scope| {
            for caller in 0..8 {
                scope.spawn(move || {
                    for count in 0..500 {
                        let count = count * (caller + 1);
                        assert_eq!(sum(count), count * count.saturating_sub(1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn work_may_share_work() {
        let total = AtomicUsize::new(0);
        share(3, &|| {
            total.fetch_add(sum(100), Ordering::Relaxed);
        });
        let total = total.into_inner();
        assert!(total >= 4950 && total.is_multiple_of(4950), "{total}");
    }

    #[test]
    fn a_panic_comes_out_after_all_have_ended() {
        for on_caller in [false, true] {
            let (caller, inside) = (thread::current().id(), AtomicUsize::new(0));
            let done = catch_unwind(AssertUnwindSafe(|| {
                share(3, &|| {
                    inside.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                    inside.fetch_sub(1, Ordering::Relaxed);
                    assert!((thread::current().id() == caller) != on_caller, "planned");
                });
            }));
            assert_eq!(inside.load(Ordering::Relaxed), 0);
            // Without a second thread nobody but the caller works.
            assert!(done.is_err() || !on_caller && threads() == 1, "{on_caller}");
        }
    }
}
