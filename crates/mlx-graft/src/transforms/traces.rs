//! The traces of a compiled function, with what it returned beside its arrays.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::closure::{ClosureExtra, without_drops};
use crate::handles::Live;
use crate::{Array, Closure, Error, Result, VectorArray, call, sys};

/// A call of a compiled function.
struct Call {
    id: usize,
    /// Whether MLX ran the function as it is, without a trace.
    as_it_is: bool,
}

thread_local! {
    /// The compiled functions that are called on this thread, the innermost last: MLX may write to
    /// the entry of a trace from the call to its end, and code of others runs in between, such as a
    /// primitive's comparison.
    static CALLED: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// Ends the call of a compiled function, also by a panic.
struct Called;

impl Called {
    /// Notes that `id` is called.
    fn begin(id: usize) -> Self {
        CALLED.with_borrow_mut(|called| called.push(Call { id, as_it_is: false }));
        Self
    }

    /// Notes whether the function called last runs as it is, with inputs that are no placeholders.
    fn runs_with(inputs: &[Array]) {
        let traced = inputs.is_empty() || inputs.iter().any(Array::is_tracer);
        CALLED.with_borrow_mut(|called| {
            if let Some(last) = called.last_mut() {
                last.as_it_is = !traced;
            }
        });
    }

    /// Whether the function called last ran so.
    fn ran_as_it_is() -> bool {
        CALLED.with_borrow(|called| called.last().is_some_and(|last| last.as_it_is))
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        CALLED.with_borrow_mut(Vec::pop);
    }
}

/// Fails while a function is traced on this thread: MLX is writing to the cache then.
pub(crate) fn check_none_is_made(op: &'static str) -> Result<()> {
    let is_made = |called: &RefCell<Vec<Call>>| called.borrow().iter().any(|one| !one.as_it_is);
    // A thread that ends has no list any more.
    if !CALLED.try_with(is_made).unwrap_or(false) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        op,
        "forgets traces, which is not possible while a function is traced: call it afterwards",
    ))
}

/// Fails if an operation between arrays cannot take their shapes, which nobody has checked: MLX
/// reads beyond its memory then.
pub(crate) fn check_shapes<A: AsRef<Array>>(outputs: &[Array], inputs: &[A]) -> Result<()> {
    let outputs = VectorArray::from_arrays(outputs)?;
    let inputs = VectorArray::from_arrays(inputs)?;
    // SAFETY: both lists are live.
    call::plain_status("compile", || unsafe {
        sys::graft_check_shapes(outputs.as_raw(), inputs.as_raw())
    })
}

/// MLX's cache of traces, of which every thread has one.
pub(super) struct Cache {
    raw: sys::mlx_compile_cache,
    _live: Live,
}

impl Cache {
    pub(super) fn of_this_thread() -> Result<Self> {
        call::ready();
        // SAFETY: makes a handle, which the wrapper frees.
        let mut cache = Self { raw: unsafe { sys::mlx_compile_cache_new() }, _live: Live::new() };
        call::status("compile_cache", || {
            // SAFETY: the handle is ours to fill.
            unsafe { sys::mlx_detail_compile_cache(&raw mut cache.raw) }
        })?;
        Ok(cache)
    }

    pub(super) fn clear(&self) -> Result<()> {
        without_drops(|| {
            call::status("clear_compile_cache", || {
                // SAFETY: the handle is live; it holds the cache weakly.
                unsafe { sys::mlx_detail_compile_clear_cache(self.raw) }
            })
        })
    }

    fn erase(&self, id: usize) -> Result<()> {
        without_drops(|| {
            call::status("compile_erase", || {
                // SAFETY: the handle is live; it holds the cache weakly, and the cache has a lock.
                unsafe { sys::mlx_detail_compile_erase(self.raw, id) }
            })
        })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        unsafe { sys::mlx_compile_cache_free(self.raw) };
    }
}

/// What [`compile`](super::compile) does for functions that also depend on constants and return
/// something beside their arrays.
///
/// A function is traced once per combination of shapes, dtypes and constants. It may capture
/// arguments of its first call that are no arrays, if `constants` tells them apart; what it returns
/// beside its arrays is kept with the trace and comes out of every later call.
///
/// ```
/// use mlx_graft::{Array, ops, transforms::Traces};
///
/// let traces = Traces::new();
/// let power = |exponent: u64| {
///     let f = move |x: &[Array]| {
///         let y = (1..exponent).try_fold(x[0].clone(), |y, _| ops::multiply(&y, &x[0]))?;
///         Ok((vec![y], format!("to the {exponent}")))
///     };
///     traces.call(f, &[Array::scalar(2.0_f32)?], false, &[exponent])
/// };
/// let (cube, name) = power(3)?;
/// assert_eq!((cube[0].item::<f32>()?, name.as_str()), (8.0, "to the 3"));
/// assert_eq!(power(5)?.0[0].item::<f32>()?, 32.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub struct Traces {
    // Its address is this function's key in MLX's caches, unique as long as it lives.
    id: Box<u8>,
    // The caches with traces; more than one if a caller sees to what `_thread` warns of.
    caches: Mutex<HashMap<ThreadId, Cache>>,
    // A trace may hold closures that belong to the thread that made it.
    _thread: PhantomData<*const ()>,
}

impl Traces {
    /// No traces yet.
    pub fn new() -> Self {
        Self { id: Box::new(0), caches: Mutex::default(), _thread: PhantomData }
    }

    /// Calls `f`, or runs the trace that was made by a former call with arrays of these shapes and
    /// dtypes and with these constants.
    ///
    /// # Errors
    /// The function's own error while it is traced, or what MLX reports.
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the function calls this, while it is
    /// traced, with arrays that are not part of the trace.
    pub fn call<F, T, A>(
        &self,
        f: F,
        inputs: &[A],
        shapeless: bool,
        constants: &[u64],
    ) -> Result<(Vec<Array>, Arc<T>)>
    where
        F: Fn(&[Array]) -> Result<(Vec<Array>, T)> + 'static,
        T: Send + Sync + 'static,
        A: AsRef<Array>,
    {
        self.use_this_thread()?;
        let siblings = Siblings::default();
        let kept = siblings.clone();
        let f = move |inputs: &[Array]| {
            Called::runs_with(inputs);
            let (outputs, value) = f(inputs)?;
            kept.keep(&outputs, inputs)?;
            Ok((outputs, value))
        };
        let compiled = ClosureExtra::new(f).compiled(self.id(), shapeless, constants)?;
        let result = self.call_with(inputs, || compiled.call(inputs));
        let result = result.and_then(|(result, traced)| {
            if shapeless && traced {
                check_shapes(&result.0, inputs)?;
            }
            Ok(result)
        });
        drop(compiled);
        siblings.release();
        result
    }

    /// Calls a function that was compiled with its traces here, and tells whether a trace gave the
    /// result. What the call is done with goes afterwards, as its destructors may call the function
    /// too.
    pub(super) fn call_with<A: AsRef<Array>, R>(
        &self,
        inputs: &[A],
        call: impl FnOnce() -> Result<R>,
    ) -> Result<(R, bool)> {
        // MLX writes to the entry of a trace until it is made, and another one of the same function
        // would move it. With placeholders MLX makes none, but goes on in the outer one.
        let is_traced =
            |called: &Vec<Call>| called.iter().any(|one| one.id == self.id() && !one.as_it_is);
        let in_a_trace = inputs.iter().any(|input| input.as_ref().is_tracer());
        if !in_a_trace && CALLED.with_borrow(is_traced) {
            return Err(Error::invalid_argument(
                "compile",
                "the compiled function was called, while it is traced, with arrays that are not \
                 part of the trace: call the function that was compiled instead",
            ));
        }
        let _called = Called::begin(self.id());
        let result = call()?;
        Ok((result, !in_a_trace && !Called::ran_as_it_is()))
    }

    /// A compiled function with its traces here. Whoever calls it releases the siblings afterwards.
    pub(super) fn compile<F>(&self, f: F, shapeless: bool) -> Result<(Closure, Siblings)>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        self.use_this_thread()?;
        let siblings = Siblings::default();
        let kept = siblings.clone();
        let f = Closure::new(move |inputs| {
            Called::runs_with(inputs);
            let outputs = f(inputs)?;
            kept.keep(&outputs, inputs)?;
            Ok(outputs)
        });
        let compiled = Closure::derived("compile", |res| {
            let none = std::ptr::null();
            // SAFETY: the closure is live and MLX keeps its own copy; there are no constants.
            unsafe { sys::mlx_detail_compile(res, f.as_raw(), self.id(), shapeless, none, 0) }
        })?;
        Ok((compiled, siblings))
    }

    /// Remembers that this thread's cache may hold traces.
    fn use_this_thread(&self) -> Result<()> {
        match self
            .caches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(thread::current().id())
        {
            Entry::Occupied(_) => {}
            Entry::Vacant(slot) => {
                slot.insert(Cache::of_this_thread()?);
            }
        }
        Ok(())
    }

    fn id(&self) -> usize {
        std::ptr::from_ref(&*self.id) as usize
    }
}

/// Outputs of operations with several, from the graph of a function that is being traced.
///
/// MLX copies that graph and drops the original piece by piece. Outputs of one operation refer to
/// each other, and MLX breaks the circle when the last array that refers to them is destroyed, but
/// not when another array is assigned to it, which is how some of these go: with them stays all that
/// the function captured. An array of each that goes after the trace is made ends that.
#[derive(Clone, Default)]
pub(super) struct Siblings(Rc<RefCell<Vec<VectorArray>>>);

impl Siblings {
    fn keep(&self, outputs: &[Array], inputs: &[Array]) -> Result<()> {
        let outputs = VectorArray::from_arrays(outputs)?;
        let inputs = VectorArray::from_arrays(inputs)?;
        let mut found = VectorArray::new();
        call::plain_status("compile", || {
            // SAFETY: all handles are live.
            unsafe {
                sys::graft_trace_siblings(found.as_mut_raw(), outputs.as_raw(), inputs.as_raw())
            }
        })?;
        self.0.borrow_mut().push(found);
        Ok(())
    }

    pub(super) fn release(&self) {
        // Taken first: what is freed may run code of the caller.
        drop(self.0.take());
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let id = self.id();
        for cache in self.caches.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            // A drop cannot report; a failure leaves the traces in memory.
            let _ = cache.erase(id);
        }
    }
}
