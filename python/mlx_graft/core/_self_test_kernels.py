"""The part of the self-test that compares the native operations with MLX's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from mlx_graft import kernels
from mlx_graft.core._parity import Case, Comparison, Op, all_gradients, all_values


class Native(Op):
    """An operation of `mlx_graft.kernels` beside one of `mlx.core`."""

    def __init__(self, name: str, peer: Callable[..., Any], cases: Sequence[Case]) -> None:
        super().__init__(name, "native kernels", list(cases))
        self._peer = peer

    @property
    def ours(self) -> Callable[..., Any]:
        """The function in Rust."""
        return getattr(kernels, self.name)  # type: ignore[no-any-return]

    @property
    def peer(self) -> Callable[..., Any]:
        """The function of `mlx.core`, in float32: it adds up 16 bits in 16 bits, if at all."""

        def in_float32(*arguments: Any, **options: Any) -> mx.array:
            wide = [
                one.astype(mx.float32)
                if isinstance(one, mx.array) and mx.issubdtype(one.dtype, mx.floating)
                else one
                for one in arguments
            ]
            found: mx.array = self._peer(*wide, **options)
            return found.astype(arguments[0].dtype)

        return in_float32


def _cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    score = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return mx.logsumexp(logits, axis=-1) - score


def _rope(**options: Any) -> Case:
    known = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0}
    return lambda f, x: f(x(2, 3, 5, 8), 8, **{**known, **options})


def _attention(heads: int, kv_heads: int, **options: Any) -> Case:
    return lambda f, x: f(
        x(2, heads, 5, 8), x(2, kv_heads, 9, 8), x(2, kv_heads, 9, 8), scale=0.3, **options
    )


def _quantized(x: Any, *shape: int, bits: int = 4) -> Any:
    """A quantized matrix of small numbers: near 0, the tolerance is for sums of size 1."""
    return mx.quantize(0.1 * x.fixed(*shape), bits=bits)


# Few rows and many, lengths that are multiples of nothing, and what models use.
OPERATIONS = [
    Native(
        "matmul", mx.matmul,
        [
            lambda f, x: f(x(1, 64), x(64, 64)),
            lambda f, x: f(x(33, 65), x(65, 17)),
            lambda f, x: f(x(64, 128), x.t(128, 96)),
        ],
    ),
    Native(
        "quantized_matmul", mx.quantized_matmul,
        [
            lambda f, x: f(x(3, 64), *_quantized(x, 40, 64)),
            lambda f, x: f(x(37, 128), *_quantized(x, 40, 128, bits=8), bits=8),
            lambda f, x: f(x(5, 40), *_quantized(x, 40, 64), transpose=False),
        ],
    ),
    Native("gather_mm", mx.gather_mm, [
        lambda f, x: f(x(4, 2, 3), x(3, 3, 5), x.index(4, 6), x.index(3, 6)),
    ]),
    Native("gather_qmm", mx.gather_qmm, [
        lambda f, x: f(
            x(4, 2, 64), *_quantized(x, 3, 8, 64), x.index(4, 6), x.index(3, 6)
        ),
    ]),
    Native("softmax", lambda x: mx.softmax(x, axis=-1), [lambda f, x: f(x(5, 67))]),
    Native("logsumexp", lambda x: mx.logsumexp(x, axis=-1), [lambda f, x: f(x(5, 67))]),
    Native("cross_entropy", _cross_entropy, [lambda f, x: f(x(5, 67), x.index(67, 5))]),
    Native("rms_norm", mx.fast.rms_norm, [
        lambda f, x: f(x(5, 67), x(67), 1e-5), lambda f, x: f(x(5, 67), None, 1e-5),
    ]),
    Native("layer_norm", mx.fast.layer_norm, [
        lambda f, x: f(x(5, 67), x(67), x(67), 1e-5), lambda f, x: f(x(5, 67), None, None, 1e-5),
    ]),
    Native("rope", mx.fast.rope, [_rope(), _rope(traditional=True, offset=7, scale=0.5)]),
    Native(
        "scaled_dot_product_attention", mx.fast.scaled_dot_product_attention,
        [_attention(2, 2), _attention(4, 2, mask="causal"), _attention(4, 1)],
    ),
]  # fmt: skip


def native_kernels(seed: int) -> Iterator[Comparison]:
    """Values of all native operations, which run on the CPU, and gradients in float32."""
    for op in OPERATIONS:
        with mx.stream(mx.cpu):
            found = [
                *all_values(op, (mx.float32, mx.float16, mx.bfloat16), seed),
                *all_gradients(op, (mx.float32,), seed),
            ]
        yield from found
