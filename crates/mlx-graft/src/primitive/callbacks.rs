//! The table of callbacks by which C++ runs a [`Primitive`].
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CString, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::row_copy::{self, RowCopy};
use super::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Poison, Primitive, failure,
};
use crate::call::slice_of;
use crate::containers::{self, Text, VectorArray};
use crate::handles::Live;
use crate::stream::{self, on_stream};
use crate::{Array, Dtype, Error, Result, Stream, call, closure, error, guard, sys};

/// A primitive without its type, so that one table serves all of them.
trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn poison(&self) -> Poison;
    fn layout(&self, input: usize) -> Layout;
    fn updates(&self, output: usize) -> Option<usize>;
    fn as_any(&self) -> &dyn Any;
    fn equals(&self, other: &dyn Erased) -> bool;
    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>>;
    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError>;
    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>>;
    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>>;
    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)>;
}

impl<P: Primitive> Erased for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn poison(&self) -> Poison {
        P::POISON
    }

    fn layout(&self, input: usize) -> Layout {
        Primitive::layout(self, input)
    }

    fn updates(&self, output: usize) -> Option<usize> {
        Primitive::updates(self, output)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn Erased) -> bool {
        other.as_any().downcast_ref::<P>().is_some_and(|other| self == other)
    }

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Primitive::output_specs(self, inputs)
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        Primitive::eval_cpu(self, inputs, outputs)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        Primitive::vjp(self, primals, cotangents, argnums, outputs)
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        Primitive::jvp(self, primals, tangents, argnums)
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Primitive::vmap(self, inputs, axes)
    }
}

/// What C++ holds of a primitive. Kernels, which run on threads of MLX, use the first alone.
struct Payload {
    primitive: Box<dyn Erased>,
    // Where it was applied, and so what its rules build: C++ makes the stream the default one, but
    // a scope of the caller would come before that.
    stream: Stream,
    _live: Live,
}

/// For a primitive without a kernel, whose output is its first input, on any device.
static WITHOUT_KERNEL: sys::graft_primitive_vtable =
    sys::graft_primitive_vtable { eval: None, ..TABLE };

static VTABLE: sys::graft_primitive_vtable = TABLE;

const TABLE: sys::graft_primitive_vtable = sys::graft_primitive_vtable {
    output_specs: Some(output_specs),
    eval: Some(eval),
    updates: Some(updates),
    vjp: Some(vjp),
    jvp: Some(jvp),
    vmap: Some(vmap),
    is_equivalent: Some(is_equivalent),
    dtor: Some(drop_payload),
};

pub(super) fn apply<P: Primitive>(primitive: P, inputs: &[Array]) -> Result<Vec<Array>> {
    add(primitive, inputs, &VTABLE)
}

pub(super) fn pass<P: Primitive>(primitive: P, inputs: &[Array]) -> Result<Vec<Array>> {
    add(primitive, inputs, &WITHOUT_KERNEL)
}

fn add<P: Primitive>(
    primitive: P,
    inputs: &[Array],
    vtable: &'static sys::graft_primitive_vtable,
) -> Result<Vec<Array>> {
    let name: CString = call::c_string(P::NAME, P::NAME)?;
    let inputs = VectorArray::from_arrays(inputs)?;
    let mut res = VectorArray::new();
    stream::with_current(P::NAME, |stream| {
        let own_stream = Stream::filled(P::NAME, |res| {
            // SAFETY: the stream in scope is live, and is copied into a null handle.
            unsafe { sys::mlx_stream_set(res, stream) }
        })?;
        let primitive = Box::new(primitive);
        let payload = Payload { primitive, stream: own_stream, _live: Live::new() };
        let payload = Box::into_raw(Box::new(payload));
        call::status(P::NAME, || {
            // SAFETY: all handles are live; the table is static and matches the payload, which the
            // call takes, also when it fails.
            unsafe {
                sys::graft_primitive_apply(
                    res.as_mut_raw(),
                    name.as_ptr(),
                    vtable,
                    payload.cast(),
                    inputs.as_raw(),
                    stream,
                )
            }
        })
    })?;
    res.to_vec()
}

/// # Safety
/// `payload` is one that [`add`] gave to C++, and not dropped yet.
unsafe fn primitive<'a>(payload: *const c_void) -> &'a dyn Erased {
    // SAFETY: the caller says so; C++ only ever shares it.
    unsafe { &*(*payload.cast::<Payload>()).primitive }
}

/// Runs a rule of a primitive, whose operations belong on its stream.
///
/// # Safety
/// As for [`primitive`].
unsafe fn rule(payload: *const c_void, f: impl FnOnce(&dyn Erased) -> Result<()>) -> c_int {
    error::guarded(|| {
        // SAFETY: the caller says so; C++ only ever shares it.
        let Payload { primitive, stream, .. } = unsafe { &*payload.cast::<Payload>() };
        on_stream(stream, || f(&**primitive))
    })
}

unsafe extern "C" fn output_specs(
    specs: sys::graft_primitive_specs,
    inputs: sys::mlx_vector_array,
    payload: *const c_void,
) -> c_int {
    error::guarded(|| {
        // SAFETY: C++ calls with a live payload and a live list.
        let (primitive, inputs) =
            unsafe { (primitive(payload), containers::vec_from_raw(inputs)?) };
        let inputs: Vec<ArraySpec> = inputs.iter().map(ArraySpec::of).collect();
        for (i, spec) in primitive.output_specs(&inputs)?.into_iter().enumerate() {
            let updated = primitive.updates(i).map(|input| inputs.get(input));
            if let Some(updated) = updated.filter(|&updated| updated != Some(&spec)) {
                return Err(Error::invalid_argument(
                    primitive.name(),
                    format!("output {i} is {spec:?} and no update of {updated:?}"),
                ));
            }
            let ArraySpec { shape, dtype } = spec;
            guard::possible_lengths(primitive.name(), &shape, dtype, dtype.size())?;
            call::status(primitive.name(), || {
                // SAFETY: `specs` is live during the callback; the shape is copied.
                unsafe {
                    sys::graft_primitive_specs_append(
                        specs,
                        shape.as_ptr(),
                        shape.len(),
                        dtype.as_raw(),
                    )
                }
            })?;
        }
        Ok(())
    })
}

/// Runs on a thread of MLX: nothing here touches an [`Array`] or a thread-local slot.
unsafe extern "C" fn eval(
    error: *mut sys::mlx_string,
    inputs: *const sys::graft_primitive_input,
    num_inputs: usize,
    outputs: *const sys::graft_primitive_output,
    num_outputs: usize,
    payload: *const c_void,
) -> c_int {
    // SAFETY: C++ calls with a live payload.
    let primitive = unsafe { primitive(payload) };
    let run = || {
        // SAFETY: C++ passes so many descriptions of arrays, which stay alive until the callback
        // returns, and which nobody else writes.
        unsafe {
            run_kernel(primitive, slice_of(inputs, num_inputs), slice_of(outputs, num_outputs))
        }
    };
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(panic) => KernelError::new(format!("the kernel {}", error::panicked(&*panic))),
    };
    let text = failure::record(primitive.name(), failure).replace('\0', " ");
    if let Ok(text) = Text::from_text(&text) {
        // SAFETY: `error` is a slot, whose handle C++ frees.
        unsafe { *error = text.into_raw() };
    }
    match primitive.poison() {
        Poison::Nan => 1,
        Poison::Zero => 2,
    }
}

/// Runs a kernel on arrays as it takes them.
///
/// # Safety
/// The descriptions are of arrays that are alive, and that nobody else writes, during the call.
unsafe fn run_kernel(
    primitive: &dyn Erased,
    inputs: &[sys::graft_primitive_input],
    outputs: &[sys::graft_primitive_output],
) -> Result<(), KernelError> {
    let dtype = |raw| {
        let unknown = || KernelError::new("MLX passed a dtype that is unknown here");
        Dtype::from_raw(raw).ok_or_else(unknown)
    };
    let updated = updated_inputs(primitive, inputs, outputs)?;
    let (mut described, mut copies) = (inputs.to_vec(), Vec::new());
    // An input that an output has taken over has no elements.
    let most = inputs.iter().map(|input| input.ndim).max().unwrap_or(0);
    let (no_lengths, no_strides) = (vec![0; most], vec![0; most]);
    for (i, input) in inputs.iter().enumerate() {
        let dtype = dtype(input.dtype)?;
        if input.size > 0 && input.data.is_null() {
            return Err(KernelError::new(format!("input {i} has no memory")));
        }
        let mut updates = outputs.iter().zip(&updated).filter(|&(_, &updated)| updated == Some(i));
        if let Some(first) = updates.next() {
            for (output, _) in [first].into_iter().chain(updates) {
                if input.size > 0 && input.data != output.data.cast_const() {
                    // SAFETY: as above; the output has the size and dtype of the input, as was
                    // checked, and memory of its own.
                    unsafe { row_copy::copy(input, dtype, output.data.cast()) };
                }
            }
            described[i] = sys::graft_primitive_input {
                data: std::ptr::null(),
                shape: no_lengths.as_ptr(),
                strides: no_strides.as_ptr(),
                size: 0,
                row_contiguous: true,
                ..*input
            };
            continue;
        }
        // SAFETY: the caller says so.
        if let Some(copy) = unsafe { RowCopy::if_needed(input, dtype, primitive.layout(i))? } {
            described[i] = copy.describe(input);
            copies.push(copy);
        }
    }
    let inputs = described
        .iter()
        // SAFETY: as above, for the arrays and for the copies.
        .map(|input| Ok(unsafe { InputBuffer::new(input, dtype(input.dtype)?) }))
        .collect::<Result<Vec<_>, KernelError>>()?;
    let mut outputs = outputs
        .iter()
        .zip(&updated)
        // SAFETY: each output has a buffer of its own, or that of the input which it is an update
        // of, as was checked; the kernel gets that one without its elements.
        .map(|(output, updated)| unsafe {
            Ok(OutputBuffer::new(output, dtype(output.dtype)?, updated.is_some()))
        })
        .collect::<Result<Vec<_>, KernelError>>()?;
    primitive.eval_cpu(&inputs, &mut outputs)
}

/// The input that each output is an update of. A primitive may give another answer than when the
/// outputs got their memory, so it is asked once more and held against what they are.
fn updated_inputs(
    primitive: &dyn Erased,
    inputs: &[sys::graft_primitive_input],
    outputs: &[sys::graft_primitive_output],
) -> Result<Vec<Option<usize>>, KernelError> {
    let updated = |(i, output): (usize, &sys::graft_primitive_output)| {
        let updated = primitive.updates(i);
        let fits = |input: &sys::graft_primitive_input| {
            (input.size, input.dtype) == (output.size, output.dtype)
        };
        let is_like = updated.is_none_or(|updated| inputs.get(updated).is_some_and(fits));
        let shares = |input: &sys::graft_primitive_input| {
            output.size > 0 && input.data == output.data.cast_const()
        };
        let mut owners = (0..inputs.len()).filter(|&owner| shares(&inputs[owner]));
        if is_like && owners.all(|owner| updated == Some(owner)) {
            Ok(updated)
        } else {
            let text =
                format!("`updates` gives {updated:?} for output {i}, not what it gave before");
            Err(KernelError::new(text))
        }
    };
    outputs.iter().enumerate().map(updated).collect()
}

/// The input that an output may be written over.
unsafe extern "C" fn updates(output: usize, payload: *const c_void) -> c_int {
    // SAFETY: C++ calls with a live payload.
    let primitive = unsafe { primitive(payload) };
    let input = catch_unwind(AssertUnwindSafe(|| primitive.updates(output)));
    input.ok().flatten().and_then(|input| c_int::try_from(input).ok()).unwrap_or(-1)
}

unsafe extern "C" fn vjp(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    argnums: *const c_int,
    num_argnums: usize,
    outputs: sys::mlx_vector_array,
    payload: *const c_void,
) -> c_int {
    let run = |primitive: &dyn Erased| {
        // SAFETY: C++ calls with live lists, `num_argnums` numbers and a slot.
        unsafe {
            let products = primitive.vjp(
                &containers::vec_from_raw(primals)?,
                &containers::vec_from_raw(cotangents)?,
                &containers::numbers(argnums, num_argnums, |n| n as usize),
                &containers::vec_from_raw(outputs)?,
            )?;
            containers::fill(res, &products)
        }
    };
    // SAFETY: C++ calls with a live payload.
    unsafe { rule(payload, run) }
}

unsafe extern "C" fn jvp(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    tangents: sys::mlx_vector_array,
    argnums: *const c_int,
    num_argnums: usize,
    payload: *const c_void,
) -> c_int {
    let run = |primitive: &dyn Erased| {
        // SAFETY: C++ calls with live lists, `num_argnums` numbers and a slot.
        unsafe {
            let products = primitive.jvp(
                &containers::vec_from_raw(primals)?,
                &containers::vec_from_raw(tangents)?,
                &containers::numbers(argnums, num_argnums, |n| n as usize),
            )?;
            containers::fill(res, &products)
        }
    };
    // SAFETY: C++ calls with a live payload.
    unsafe { rule(payload, run) }
}

unsafe extern "C" fn vmap(
    res: *mut sys::mlx_vector_array,
    res_axes: *mut sys::mlx_vector_int,
    inputs: sys::mlx_vector_array,
    axes: *const c_int,
    num_axes: usize,
    payload: *const c_void,
) -> c_int {
    let run = |primitive: &dyn Erased| {
        // SAFETY: C++ calls with a live list, `num_axes` numbers and two slots.
        unsafe {
            let (outputs, axes) = primitive.vmap(
                &containers::vec_from_raw(inputs)?,
                &containers::numbers(axes, num_axes, containers::axis),
            )?;
            containers::fill_axes(res_axes, &axes)?;
            containers::fill(res, &outputs)
        }
    };
    // SAFETY: C++ calls with a live payload.
    unsafe { rule(payload, run) }
}

unsafe extern "C" fn is_equivalent(payload: *const c_void, other: *const c_void) -> bool {
    // SAFETY: C++ calls with two live payloads of this table.
    let (this, other) = unsafe { (primitive(payload), primitive(other)) };
    // A comparison that panics has not found them equal.
    catch_unwind(AssertUnwindSafe(|| this.equals(other))).unwrap_or(false)
}

unsafe extern "C" fn drop_payload(payload: *mut c_void) {
    // SAFETY: C++ gives back the box made in `add`, once.
    closure::discard(unsafe { Box::from_raw(payload.cast::<Payload>()) });
}
