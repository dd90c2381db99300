"""Functions handed to MLX: of arrays, with keywords, with gradients, and rules of custom ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import ONE, SAMPLES, Sample, W, X, against


def each_way(
    kind: str, body: Callable[..., Any], apply: Callable[[Frame, Any], Any], expected: Any
) -> None:
    """A sample of one type of closure: without and with a payload, and as a copy.

    The payload outlives the handle that took it as long as a copy does, and is freed once.
    """

    def run(f: Frame) -> Any:
        freed: list[str] = []

        def with_payload(*arguments: Any) -> Any:
            assert f.ffi.from_handle(arguments[-1]) == "payload"
            return body(f, *arguments[:-1])

        make = f"{kind}_new_func"
        bare = f.callback(make, 0, lambda *arguments: body(f, *arguments))
        carrying = f.callback(f"{make}_payload", 0, with_payload)
        release = f.callback(
            f"{make}_payload", 2, lambda payload: freed.append(f.ffi.from_handle(payload))
        )
        payload = f.ffi.new_handle("payload")
        plain = f.keep(kind, getattr(f.lib, make)(bare))
        owner = getattr(f.lib, f"{make}_payload")(carrying, payload, release)
        copy = f.ffi.new(f"{kind}*")
        copy[0] = getattr(f.lib, f"{kind}_new")()
        f.do(f"{kind}_set", copy, owner)
        found = [apply(f, plain), apply(f, owner)]
        getattr(f.lib, f"{kind}_free")(owner)
        found.append(apply(f, copy[0]))
        assert not freed
        getattr(f.lib, f"{kind}_free")(copy[0])
        assert freed == ["payload"]
        return found

    run.__name__ = kind.removeprefix("mlx_")
    run.__module__ = __name__
    SAMPLES.append(Sample(run, lambda m, _: [expected(m)] * 3))


def square_and_sine(f: Frame, result: Any, inputs: Any) -> None:
    (x,) = f.items(inputs)
    f.set_arrays(result, [f.op("mlx_square", x), f.op("mlx_sin", x)])


each_way(
    "mlx_closure",
    square_and_sine,
    lambda f, closure: f.read(f.apply(closure, X)),
    lambda m: [m.square(X), m.sin(X)],
)


def scaled(f: Frame, result: Any, inputs: Any, keywords: Any) -> None:
    (x,) = f.items(inputs)
    w = f.get("mlx_array", "mlx_map_string_to_array_get", keywords, "w")
    f.set_arrays(result, [f.op("mlx_multiply", x, w)])


each_way(
    "mlx_closure_kwargs",
    scaled,
    lambda f, closure: f.read(
        f.get("mlx_vector_array", "mlx_closure_kwargs_apply", closure, f.arrays(X), f.named(w=W))
    ),
    lambda m: [m.multiply(X, W)],
)


def value_and_gradient(f: Frame, values: Any, gradients: Any, inputs: Any) -> None:
    (x,) = f.items(inputs)
    f.set_arrays(values, [f.op("mlx_sum", f.op("mlx_square", x), False)])
    f.set_arrays(gradients, [f.op("mlx_add", x, x)])


def both(f: Frame, closure: Any) -> Any:
    values, gradients = f.out("mlx_vector_array"), f.out("mlx_vector_array")
    f.do("mlx_closure_value_and_grad_apply", values, gradients, closure, f.arrays(X))
    return [*f.read(values[0]), *f.read(gradients[0])]


each_way(
    "mlx_closure_value_and_grad",
    value_and_gradient,
    both,
    lambda m: m.value_and_grad(lambda x: m.sum(m.square(x)))(X),
)


def pulled_back(f: Frame, result: Any, primals: Any, cotangents: Any, outputs: Any) -> None:
    (x,), (cotangent,), (output,) = map(f.items, (primals, cotangents, outputs))
    f.set_arrays(result, [f.op("mlx_add", f.op("mlx_multiply", x, cotangent), output)])


each_way(
    "mlx_closure_custom",
    pulled_back,
    lambda f, closure: f.read(
        f.get(
            "mlx_vector_array",
            "mlx_closure_custom_apply",
            closure,
            *(f.arrays(value) for value in (X, W, ONE)),
        )
    ),
    lambda m: [m.add(m.multiply(X, W), ONE)],
)


def pushed_forward(
    f: Frame, result: Any, primals: Any, tangents: Any, argnums: Any, n: int
) -> None:
    assert [argnums[i] for i in range(n)] == [0]
    (x,), (tangent,) = map(f.items, (primals, tangents))
    f.set_arrays(result, [f.op("mlx_multiply", x, tangent)])


each_way(
    "mlx_closure_custom_jvp",
    pushed_forward,
    lambda f, closure: f.read(
        f.get(
            "mlx_vector_array",
            "mlx_closure_custom_jvp_apply",
            closure,
            *(f.arrays(value) for value in (X, W)),
            f.ints(0),
            1,
        )
    ),
    lambda m: [m.multiply(X, W)],
)


def over_rows(f: Frame, result: Any, result_axes: Any, inputs: Any, axes: Any, n: int) -> None:
    (x,) = f.items(inputs)
    f.set_arrays(result, [f.op("mlx_sum_axis", x, 1, False)])
    f.do("mlx_vector_int_set_data", result_axes, axes, n)


def mapped(f: Frame, closure: Any) -> Any:
    values, axes = f.out("mlx_vector_array"), f.out("mlx_vector_int")
    f.do("mlx_closure_custom_vmap_apply", values, axes, closure, f.arrays(X), f.ints(0), 1)
    assert f.get("int", "mlx_vector_int_get", axes[0], 0) == 0
    return f.read(values[0])


each_way(
    "mlx_closure_custom_vmap", over_rows, mapped, lambda m: [m.vmap(lambda row: m.sum(row))(X)]
)


@against(lambda m, _: [m.exp(X)])
def of_one_array(f: Frame) -> Any:
    def exp(result: Any, x: Any) -> None:
        f.do("mlx_exp", result, x, f.stream)

    pointer = f.callback("mlx_closure_new_unary", 0, exp)
    closure = f.keep("mlx_closure", f.lib.mlx_closure_new_unary(pointer))
    return f.read(f.apply(closure, X))


@against(RuntimeError, fails=True)
def that_fails(f: Frame) -> Any:
    def fail(*_: Any) -> Any:
        raise LookupError("as planned")

    try:
        return f.read(f.apply(f.closure(fail), X))
    finally:
        assert [type(error) for error in f.raised] == [LookupError]
