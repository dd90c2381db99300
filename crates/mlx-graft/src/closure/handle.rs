//! What the handles of all kinds of closures have in common.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use crate::error;
use crate::handles::Live;

/// What C++ holds of a Rust function. It is called on the thread that evaluates or traces.
pub(super) struct Payload<F> {
    function: F,
    _live: Live,
}

impl<F> Payload<F> {
    /// Moves a function to where C++ can keep it, until it calls [`drop_payload`].
    pub(super) fn give(function: F) -> *mut c_void {
        Box::into_raw(Box::new(Self { function, _live: Live::new() })).cast()
    }
}

/// The function in a payload.
///
/// # Safety
/// `payload` came from [`Payload::give`] for the same `F` and is not dropped yet. Only shared
/// references are made of it, as a function may call itself through a transformation.
pub(super) unsafe fn function<'a, F>(payload: *mut c_void) -> &'a F {
    // SAFETY: the caller says so.
    unsafe { &(*payload.cast::<Payload<F>>()).function }
}

pub(super) extern "C" fn drop_payload<F: 'static>(payload: *mut c_void) {
    // SAFETY: C++ gives back the box made in `Payload::give`, once.
    discard(unsafe { Box::from_raw(payload.cast::<Payload<F>>()) });
}

thread_local! {
    /// What C++ gave back within [`without_drops`].
    static GIVEN_BACK: RefCell<Option<Vec<Box<dyn Any>>>> = const { RefCell::new(None) };
}

/// Drops what C++ gave back, at once or at the end of [`without_drops`].
pub(crate) fn discard(mut value: Box<dyn Any>) {
    // A thread that ends has no list any more.
    let _ = GIVEN_BACK.try_with(|list| {
        if let Some(list) = &mut *list.borrow_mut() {
            list.push(std::mem::replace(&mut value, Box::new(())));
        }
    });
    // A destructor runs inside C++ and must not unwind into it.
    let _: c_int = error::guarded(|| {
        drop(value);
        Ok(())
    });
}

/// Runs a call of C++ that frees closures, and drops what they held afterwards.
///
/// MLX locks its cache of traces while it frees some of them. What a closure in a trace held may
/// own a compiled function, whose drop needs the same lock. See also
/// [`evaluation`](crate::call::evaluation).
pub(crate) fn without_drops<R>(f: impl FnOnce() -> R) -> R {
    let outermost = GIVEN_BACK
        .try_with(|list| {
            let mut list = list.borrow_mut();
            list.is_none().then(|| *list = Some(Vec::new())).is_some()
        })
        .unwrap_or(false);
    let result = f();
    if outermost {
        let given_back = GIVEN_BACK.try_with(RefCell::take).ok().flatten();
        given_back.into_iter().flatten().for_each(discard);
    }
    result
}

/// Whether a function captures nothing, so that a C function without a payload can stand for it.
pub(super) const fn is_plain<F>() -> bool {
    size_of::<F>() == 0 && !std::mem::needs_drop::<F>()
}

/// A function that captures nothing.
///
/// # Safety
/// [`is_plain`] holds for `F`, and a value of it was forgotten before, which this stands for.
pub(super) unsafe fn plain<'a, F>() -> &'a F {
    // SAFETY: a value of no size has no bytes to read; the caller gave one up.
    unsafe { NonNull::<F>::dangling().as_ref() }
}

/// Defines the owner of a closure handle: it shares the function when cloned, and frees its share
/// when dropped.
macro_rules! closure_handle {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $new:ident, $set:ident, $free:ident) => {
        $(#[$doc])*
        pub struct $name {
            raw: $crate::sys::$raw,
            _live: $crate::handles::Live,
        }

        impl $name {
            /// Owns a handle that nobody else frees.
            fn owning(raw: $crate::sys::$raw) -> Self {
                Self { raw, _live: $crate::handles::Live::new() }
            }

            /// A handle for a call to fill.
            fn empty() -> Self {
                $crate::call::ready();
                // SAFETY: makes a handle without a function.
                Self::owning(unsafe { $crate::sys::$new() })
            }
        }

        impl Clone for $name {
            fn clone(&self) -> Self {
                let mut copy = Self::empty();
                // SAFETY: both handles are live. Sharing can fail only for want of memory, and then
                // the copy has no function, which every later call reports.
                unsafe { $crate::sys::$set(&raw mut copy.raw, self.raw) };
                copy
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // A compiled function that goes frees its traces.
                $crate::closure::without_drops(|| {
                    // SAFETY: frees the handle we own, once; an empty one is freed as a no-op.
                    unsafe { $crate::sys::$free(self.raw) }
                });
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

pub(super) use closure_handle;
