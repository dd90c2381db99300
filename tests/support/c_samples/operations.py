"""Operations whose C arguments are others than those of Python, or that Python has no name for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from support.c_frame import Frame
from support.c_samples.sample import SAMPLES, Sample, W, X

KEY = mx.array([0, 11], mx.uint32)  # mlx.core.random.key(11)
Q = mx.arange(24, dtype=mx.float32).reshape(1, 2, 3, 4) / 10
ROWS = mx.array([1, 0])
SQUARE = mx.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.25], [0.5, 0.25, 2.0]])
ZERO = mx.array(0.0)


class Numbers(tuple[int, ...]):
    """Integers, which C takes as a pointer and a length."""


def ints(*values: int) -> Numbers:
    return Numbers(values)


def operation(
    function: str, arguments: Callable[[Frame], tuple[Any, ...]], expected: Callable[[Any], Any]
) -> None:
    """A sample of a function with arrays as its result."""

    def run(f: Frame) -> Any:
        given: list[Any] = []
        for argument in arguments(f):
            if isinstance(argument, Numbers):
                given += [f.ints(*argument), len(argument)]
            else:
                given.append(argument)
        kind = f.c.functions[function][0][0].removesuffix("*")
        return f.read(f.get(kind, function, *given, f.stream))

    run.__name__ = function.removeprefix("mlx_")
    run.__module__ = __name__
    SAMPLES.append(Sample(run, lambda m, _: expected(m)))


def optional(f: Frame, kind: str, value: float) -> Any:
    return f.ffi.new(f"mlx_optional_{kind}*", {"value": value, "has_value": True})[0]


def none(f: Frame) -> Any:
    """No array."""
    return f.ffi.new("mlx_array*")[0]


# Making arrays.
operation(
    "mlx_arange",
    lambda f: (0.0, 5.0, 2.0, f.lib.MLX_FLOAT32),
    lambda m: m.arange(0, 5, 2, dtype=mx.float32),
)
operation(
    "mlx_linspace",
    lambda f: (0.0, 1.0, 5, f.lib.MLX_FLOAT32),
    lambda m: m.linspace(0, 1, 5, dtype=mx.float32),
)
operation("mlx_eye", lambda f: (3, 4, 1, f.lib.MLX_INT8), lambda m: m.eye(3, 4, 1, dtype=mx.int8))
operation("mlx_full", lambda f: (ints(2, 3), W, f.lib.MLX_FLOAT32), lambda m: m.full((2, 3), W))
operation("mlx_full_like", lambda f: (X, W, f.lib.MLX_FLOAT32), lambda m: m.full_like(X, W))
operation("mlx_meshgrid", lambda f: (f.arrays(W, ROWS), False, "xy"), lambda m: m.meshgrid(W, ROWS))

# Shapes and places.
operation(
    "mlx_as_strided",
    lambda f: (X, ints(2, 2), f.ffi.new("int64_t[]", [1, 2]), 2, 1),
    lambda m: m.as_strided(X, (2, 2), (1, 2), 1),
)
operation(
    "mlx_pad",
    lambda _: (X, ints(0, 1), ints(1, 0), ints(0, 2), ZERO, "constant"),
    lambda m: m.pad(X, ((1, 0), (0, 2))),
)
operation("mlx_pad_symmetric", lambda _: (X, 1, ZERO, "constant"), lambda m: m.pad(X, 1))
operation("mlx_roll_axis", lambda _: (X, ints(1), 1), lambda m: m.roll(X, 1, 1))
operation(
    "mlx_roll_axes", lambda _: (X, ints(1, 2), ints(0, 1)), lambda m: m.roll(X, (1, 2), (0, 1))
)
operation("mlx_split", lambda _: (X, 3, 1), lambda m: m.split(X, 3, 1))
operation("mlx_split_sections", lambda _: (X, ints(1), 1), lambda m: m.split(X, [1], 1))
operation(
    "mlx_trace_axes",
    lambda f: (SQUARE, 1, 0, 1, f.lib.MLX_FLOAT32),
    lambda m: m.trace(SQUARE, 1, 0, 1),
)
operation(
    "mlx_number_of_elements",
    lambda f: (X, ints(1), False, f.lib.MLX_INT32),
    lambda _: mx.array(X.shape[1]),
)

# Reads and writes at indices.


def rows(m: Any) -> mx.array:
    return m.expand_dims(m.take(X, ROWS, axis=0), 1)


operation("mlx_gather", lambda f: (X, f.arrays(ROWS), ints(0), ints(1, 3)), rows)
operation("mlx_gather_single", lambda _: (X, ROWS, 0, ints(1, 3)), rows)
operation(
    "mlx_put_along_axis",
    lambda _: (X, ROWS.reshape(2, 1), W[:2].reshape(2, 1), 1),
    lambda m: m.put_along_axis(X, ROWS.reshape(2, 1), W[:2].reshape(2, 1), 1),
)
operation(
    "mlx_scatter_add",
    lambda f: (X, f.arrays(ROWS), mx.ones((2, 1, 3)), ints(0)),
    lambda m: m.add(X, 1.0),
)
operation(
    "mlx_slice_update_add",
    lambda _: (X, mx.ones((1, 3)), ints(1, 0), ints(2, 3), ints(1, 1)),
    lambda m: m.add(X, mx.array([[0.0], [1.0]])),
)

# Linear algebra and what is fast.
operation("mlx_linalg_lu", lambda _: (SQUARE,), lambda m: m.linalg.lu(SQUARE, stream=mx.cpu))
operation("mlx_linalg_svd", lambda _: (X, True), lambda m: m.linalg.svd(X, stream=mx.cpu))
operation(
    "mlx_linalg_norm",
    lambda _: (X, 1.0, ints(0), True),
    lambda m: m.linalg.norm(X, 1, axis=0, keepdims=True),
)
operation(
    "mlx_linalg_norm_matrix",
    lambda _: (X, "fro", ints(0, 1), False),
    lambda m: m.linalg.norm(X, "fro"),
)
operation(
    "mlx_fast_rope",
    lambda f: (Q, 4, False, optional(f, "float", 100.0), 1.0, 2, none(f)),
    lambda m: m.fast.rope(Q, 4, traditional=False, base=100.0, scale=1.0, offset=2),
)
operation(
    "mlx_fast_rope_dynamic",
    lambda f: (Q, 4, True, optional(f, "float", 100.0), 1.0, mx.array(2), none(f)),
    lambda m: m.fast.rope(Q, 4, traditional=True, base=100.0, scale=1.0, offset=mx.array(2)),
)
operation(
    "mlx_fast_scaled_dot_product_attention",
    lambda f: (Q, Q, Q, 0.5, "causal", none(f), none(f), False),
    lambda m: m.fast.scaled_dot_product_attention(Q, Q, Q, scale=0.5, mask="causal"),
)
SIGNAL, FILTER = Q.reshape(1, 12, 2), Q.reshape(4, 3, 2)
operation(
    "mlx_conv_general",
    lambda _: (SIGNAL, FILTER, ints(2), ints(1), ints(0), ints(1), ints(1), 1, True),
    lambda m: m.conv_general(SIGNAL, FILTER, stride=2, padding=([1], [0]), flip=True),
)

# Random numbers of a key.
operation(
    "mlx_random_bernoulli",
    lambda _: (mx.array(0.3), ints(8), KEY),
    lambda m: m.random.bernoulli(0.3, (8,), key=KEY),
)
# The keys of a split are the bits themselves.
operation("mlx_random_bits", lambda _: (ints(2, 2), 4, KEY), lambda m: m.random.split(KEY))
operation(
    "mlx_random_categorical",
    lambda _: (X, -1, KEY),
    lambda m: m.random.categorical(X, key=KEY),
)
operation(
    "mlx_random_categorical_shape",
    lambda _: (X, -1, ints(5, 2), KEY),
    lambda m: m.random.categorical(X, shape=(5, 2), key=KEY),
)
operation(
    "mlx_random_categorical_num_samples",
    lambda _: (X, -1, 5, KEY),
    lambda m: m.random.categorical(X, num_samples=5, key=KEY),
)
operation(
    "mlx_random_permutation_arange", lambda _: (6, KEY), lambda m: m.random.permutation(6, key=KEY)
)
