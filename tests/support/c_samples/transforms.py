"""Transformations of functions that Python computes by calling back into C."""

from __future__ import annotations

from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import ONE, W, X, against


def loss(f: Frame) -> Any:
    """The sum of tanh(x * w)."""
    return f.closure(
        lambda x, w: [f.op("mlx_sum", f.op("mlx_tanh", f.op("mlx_multiply", x, w)), False)]
    )


def loss_of(m: Any) -> Any:
    """The same in Python."""
    return lambda x, w: m.sum(m.tanh(m.multiply(x, w)))


def differentiated(f: Frame, closure: Any, *inputs: Any) -> Any:
    """Value and gradients by each input."""
    both = f.out("mlx_closure_value_and_grad")
    argnums = f.ints(*range(len(inputs)))
    f.do("mlx_value_and_grad", both, closure, argnums, len(inputs))
    values, gradients = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    f.do("mlx_closure_value_and_grad_apply", values, gradients, both[0], f.arrays(*inputs))
    return [*f.read(values[0]), *f.read(gradients[0])]


def two_lists(f: Frame, function: str, *arguments: Any) -> Any:
    """The arrays of both results."""
    first, second = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    f.do(function, first, second, *arguments)
    return [f.read(first[0]), f.read(second[0])]


def flattened(value_and_gradients: Any) -> Any:
    value, gradients = value_and_gradients
    return [value, *gradients]


@against(lambda m, _: flattened(m.value_and_grad(loss_of(m), [0, 1])(X, W)))
def value_and_grad(f: Frame) -> Any:
    return differentiated(f, loss(f), X, W)


@against(lambda m, _: m.grad(lambda x: m.sum(m.grad(loss_of(m))(x, W)))(X))
def gradient_of_a_gradient(f: Frame) -> Any:
    def gradients(x: Any) -> Any:
        both = f.out("mlx_closure_value_and_grad")
        f.do("mlx_value_and_grad", both, loss(f), f.ints(0), 1)
        values, found = f.out("mlx_vector_array"), f.out("mlx_vector_array")
        f.do("mlx_closure_value_and_grad_apply", values, found, both[0], f.arrays(x, W))
        return [f.op("mlx_sum", f.items(found[0])[0], False)]

    return differentiated(f, f.closure(gradients), X)[1]


@against(lambda m, _: m.vjp(loss_of(m), [X, W], [ONE]))
def vjp(f: Frame) -> Any:
    return two_lists(f, "mlx_vjp", loss(f), f.arrays(X, W), f.arrays(ONE))


@against(lambda m, _: m.jvp(loss_of(m), [X, W], [X, W]))
def jvp(f: Frame) -> Any:
    return two_lists(f, "mlx_jvp", loss(f), f.arrays(X, W), f.arrays(X, W))


@against(lambda m, _: m.vjp(loss_of(m), [X, W], [ONE, ONE]), fails=True)
def too_many_cotangents(f: Frame) -> Any:
    return two_lists(f, "mlx_vjp", loss(f), f.arrays(X, W), f.arrays(ONE, ONE))


@against(lambda m, _: flattened(m.value_and_grad(m.checkpoint(loss_of(m)), [0, 1])(X, W)))
def checkpoint(f: Frame) -> Any:
    return differentiated(f, f.get("mlx_closure", "mlx_checkpoint", loss(f)), X, W)


@against(lambda m, _: [m.vmap(loss_of(m), (0, None), 0)(X, W)])
def vmap(f: Frame) -> Any:
    closure, inputs = loss(f), f.arrays(X, W)
    traced, outputs = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    axes = f.ints(0, -1)
    f.do("mlx_detail_vmap_trace", traced, outputs, closure, inputs, axes, 2)
    mapped = f.get(
        "mlx_vector_array",
        "mlx_detail_vmap_replace",
        inputs,
        traced[0],
        outputs[0],
        axes,
        2,
        f.ints(0),
        1,
    )
    return f.read(mapped)


def rules(f: Frame) -> dict[str, Any]:
    """Rules of sin(x) * y that are wrong on purpose, so that it shows that they are used."""

    def vjp(result: Any, primals: Any, cotangents: Any, _: Any) -> None:
        (x, y), (cotangent,) = f.items(primals), f.items(cotangents)
        f.set_arrays(result, [f.op("mlx_multiply", cotangent, y), f.op("mlx_cos", x)])

    def jvp(result: Any, _: Any, tangents: Any, argnums: Any, n: int) -> None:
        assert [argnums[i] for i in range(n)] == [0, 1]
        (dx, dy) = f.items(tangents)
        f.set_arrays(result, [f.op("mlx_subtract", dx, dy)])

    def vmap(result: Any, result_axes: Any, inputs: Any, axes: Any, n: int) -> None:
        assert [axes[i] for i in range(n)] == [0, 0]
        x, y = f.items(inputs)
        f.set_arrays(result, [f.op("mlx_add", x, y)])
        f.do("mlx_vector_int_set_value", result_axes, 0)

    made = {}
    for suffix, rule in {"": vjp, "_jvp": jvp, "_vmap": vmap}.items():
        kind = f"mlx_closure_custom{suffix}"
        pointer = f.callback(f"{kind}_new_func", 0, rule)
        made[kind] = f.keep(kind, getattr(f.lib, f"{kind}_new_func")(pointer))
    return made


def custom(f: Frame) -> Any:
    function = f.closure(lambda x, y: [f.op("mlx_multiply", f.op("mlx_sin", x), y)])
    return f.get("mlx_closure", "mlx_custom_function", function, *rules(f).values())


def custom_of(m: Any) -> Any:
    function = m.custom_function(lambda x, y: m.multiply(m.sin(x), y))
    function.vjp(
        lambda primals, cotangent, _: (m.multiply(cotangent, primals[1]), m.cos(primals[0]))
    )
    function.jvp(lambda _, tangents: m.subtract(*tangents))
    function.vmap(lambda inputs, _: (m.add(*inputs), 0))
    return function


@against(lambda m, _: m.vjp(custom_of(m), [X, X], [X])[1])
def custom_function_vjp(f: Frame) -> Any:
    return two_lists(f, "mlx_vjp", custom(f), f.arrays(X, X), f.arrays(X))[1]


@against(lambda m, _: m.jvp(custom_of(m), [X, X], [X, X * 3])[1])
def custom_function_jvp(f: Frame) -> Any:
    return two_lists(f, "mlx_jvp", custom(f), f.arrays(X, X), f.arrays(X, X * 3))[1]


@against(lambda m, _: [m.vmap(custom_of(m))(X, X)])
def custom_function_vmap(f: Frame) -> Any:
    inputs, axes = f.arrays(X, X), f.ints(0, 0)
    traced, outputs = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    f.do("mlx_detail_vmap_trace", traced, outputs, custom(f), inputs, axes, 2)
    results = (inputs, traced[0], outputs[0], axes, 2, f.ints(0), 1)
    return f.read(f.get("mlx_vector_array", "mlx_detail_vmap_replace", *results))


@against(lambda m, _: m.vjp(custom_of(m), [X, X], [X])[1])
def custom_vjp(f: Frame) -> Any:
    function = f.closure(lambda x, y: [f.op("mlx_multiply", f.op("mlx_sin", x), y)])
    rule = rules(f)["mlx_closure_custom"]
    closure = f.get("mlx_closure", "mlx_custom_vjp", function, rule)
    return two_lists(f, "mlx_vjp", closure, f.arrays(X, X), f.arrays(X))[1]


@against(lambda m, _: m.depends([X, W], [ONE]))
def depends(f: Frame) -> Any:
    return f.read(f.get("mlx_vector_array", "mlx_depends", f.arrays(X, W), f.arrays(ONE)))


@against(lambda m, _: [m.exp(X), m.exp(W)])
def evaluated(f: Frame) -> Any:
    results = f.arrays(f.op("mlx_exp", X), f.op("mlx_exp", W))
    f.do("mlx_async_eval", results)
    f.do("mlx_eval", results)
    for result in f.items(results):
        f.do("_mlx_array_wait", result)
        assert f.get("bool", "_mlx_array_is_available", result)
    return f.read(results)
