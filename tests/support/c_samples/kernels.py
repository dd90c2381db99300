"""Custom kernels of Metal and CUDA, and operations that are defined outside of MLX.

Where the device is absent a kernel fails as it does in Python; its configuration works anywhere.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from support.c_frame import Frame
from support.c_samples.sample import X, against

SOURCES = {
    "metal": "uint i = thread_position_in_grid.x; out[i] = T(2) * x[i];",
    "cuda": "auto i = cooperative_groups::this_grid().thread_rank(); out[i] = T(2) * x[i];",
}


def config(f: Frame, kind: str) -> Any:
    """All that is told of a launch."""
    name = f"mlx_fast_{kind}_kernel_config"
    made = f.keep(name, getattr(f.lib, f"{name}_new")())
    f.do(f"{name}_add_output_arg", made, f.ints(2, 3), 2, f.lib.MLX_FLOAT32)
    f.do(f"{name}_add_template_arg_dtype", made, "T", f.lib.MLX_FLOAT32)
    f.do(f"{name}_add_template_arg_int", made, "N", 6)
    f.do(f"{name}_add_template_arg_bool", made, "B", True)
    f.do(f"{name}_set_grid", made, 6, 1, 1)
    f.do(f"{name}_set_thread_group", made, 6, 1, 1)
    f.do(f"{name}_set_init_value", made, 0.0)
    f.do(f"{name}_set_verbose", made, False)
    return made


def run(f: Frame, kind: str, new: str, *options: Any) -> Any:
    """Makes a kernel and runs it."""
    name = f"mlx_fast_{kind}_kernel"
    launch = config(f, kind)
    names = f.strings("x"), f.strings("out")
    source = f.argument(SOURCES[kind])
    made = getattr(f.lib, new)(f.argument("twice"), *names, source, f.argument(""), *options)
    kernel = f.keep(name, made)
    stream = f.get("mlx_stream", "graft_get_default_stream")
    arguments = (kernel, f.arrays(X), launch, stream)
    return f.read(f.get("mlx_vector_array", f"{name}_apply", *arguments))


def run_in(kind: str) -> Any:
    """The same in Python."""

    def call(m: Any, _: Any) -> Any:
        make = getattr(m.fast, f"{kind}_kernel")
        kernel = make(name="twice", input_names=["x"], output_names=["out"], source=SOURCES[kind])
        return kernel(
            inputs=[X],
            template=[("T", mx.float32), ("N", 6), ("B", True)],
            grid=(6, 1, 1),
            threadgroup=(6, 1, 1),
            output_shapes=[(2, 3)],
            output_dtypes=[mx.float32],
            init_value=0.0,
            stream=mx.default_device(),
        )

    return call


@against(run_in("metal"), fails=True)
def metal(f: Frame) -> Any:
    return run(f, "metal", "mlx_fast_metal_kernel_new", True, False)


@against(run_in("metal"), fails=True)
def metal_with_a_math_mode(f: Frame) -> Any:
    mode = f.lib.GRAFT_METAL_MATH_SAFE
    return run(f, "metal", "graft_fast_metal_kernel_new", True, False, mode)


@against(run_in("metal"), fails=True)
def metal_on_the_default_stream(f: Frame) -> Any:
    launch = config(f, "metal")
    names = f.strings("x"), f.strings("out")
    texts = [f.argument(text) for text in (SOURCES["metal"], "")]
    made = f.lib.mlx_fast_metal_kernel_new(f.argument("twice"), *names, *texts, True, False)
    kernel = f.keep("mlx_fast_metal_kernel", made)
    arguments = (kernel, f.arrays(X), launch)
    apply = "graft_fast_metal_kernel_apply_default"
    return f.read(f.get("mlx_vector_array", apply, *arguments))


@against(run_in("cuda"), fails=True)
def cuda(f: Frame) -> Any:
    return run(f, "cuda", "mlx_fast_cuda_kernel_new", True, 0)


def precompiled_in(m: Any, _: Any) -> Any:
    return m.fast.precompiled_cuda_kernel(
        name="twice",
        compiled_source=b"no cubin",
        inputs=[X],
        output_shapes=[(2, 3)],
        output_dtypes=[mx.float32],
        scalars=[2.0],
        grid=(6, 1, 1),
        threadgroup=(6, 1, 1),
    )


@against(precompiled_in, fails=True)
def cuda_precompiled(f: Frame) -> Any:
    launch, scalars = config(f, "cuda"), f.ffi.new("graft_fast_scalar[1]")
    scalars[0].type, scalars[0].value = f.lib.GRAFT_FAST_SCALAR_FLOAT, 2.0
    source = f.ffi.new("uint8_t[]", b"no cubin")
    made = f.get(
        "mlx_vector_array",
        "graft_fast_precompiled_cuda_kernel",
        "twice",
        source,
        len(source),
        f.arrays(X),
        scalars,
        1,
        launch,
        0,
        False,
        f.stream,
    )
    return f.read(made)


@against(lambda m, _: [[m.multiply(X, 2.0)], [m.multiply(X, 2.0)]])
def operation_from_outside(f: Frame) -> Any:
    """Twice its input, computed by Python on MLX's thread, with a derivative in Python."""
    freed: list[Any] = []

    def output_specs(specs: Any, *_: Any) -> None:
        shape = f.ints(2, 3)
        f.do("graft_primitive_specs_append", specs, shape, 2, f.lib.MLX_FLOAT32)

    def evaluate(_: Any, inputs: Any, n: int, outputs: Any, m: int, payload: Any) -> None:
        assert n == m == 1
        assert f.ffi.from_handle(payload) == "payload"
        source, target = (f.ffi.cast("float*", array[0].data) for array in (inputs, outputs))
        for index in range(inputs[0].size):
            target[index] = 2 * source[index]

    def derivative(result: Any, _: Any, others: Any, *__: Any) -> None:
        (other,) = f.items(others)
        f.set_arrays(result, [f.op("mlx_add", other, other)])

    def refuse(*_: Any) -> Any:
        raise AssertionError("nothing is vectorized here")

    bodies = {
        "output_specs": output_specs,
        "eval": evaluate,
        "vjp": derivative,
        "jvp": derivative,
        "vmap": refuse,
        "is_equivalent": lambda one, other: one == other,
        "dtor": freed.append,
    }
    kinds = {
        name: field.type.cname for name, field in f.ffi.typeof("graft_primitive_vtable").fields
    }
    vtable = f.ffi.new(
        "graft_primitive_vtable*",
        {name: f.pointer(kinds[name], body) for name, body in bodies.items()},
    )
    payload = f.ffi.new_handle("payload")

    f.alive.append(payload)

    def twice(x: Any) -> list[Any]:
        arguments = (f.argument("twice"), vtable, payload, f.arrays(x), f.stream)
        return f.items(f.get("mlx_vector_array", "graft_primitive_apply", *arguments))

    found = [f.read(twice(X)[0])]
    values, tangents = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    f.do("mlx_jvp", values, tangents, f.closure(twice), f.arrays(X), f.arrays(X))
    return [found, f.read(tangents[0])]
