"""What stands in the place of MLX's functions: a native operation, or the function itself."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from mlx_graft import kernels
from mlx_graft._core import overwrite
from mlx_graft.accelerate import _products

__all__ = ["REPLACEMENTS", "paused"]

Function = Callable[..., Any]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)
"""The dtypes that native operations compute."""

_state = threading.local()


@contextmanager
def paused() -> Iterator[None]:
    """Lets this thread use MLX's own operations, as an exported function must."""
    before = getattr(_state, "paused", False)
    _state.paused = True
    try:
        yield
    finally:
        _state.paused = before


def _arrays(*values: object) -> bool:
    """Whether all are arrays, and native operations are wanted."""
    return not getattr(_state, "paused", False) and all(type(x) is mx.array for x in values)


def _arrays_or_none(*values: object) -> bool:
    """Whether what is given are arrays."""
    return _arrays(*[x for x in values if x is not None])


def _indices(*values: Any) -> bool:
    """Whether what is given are indices."""
    given = [x for x in values if x is not None]
    return _arrays(*given) and all(mx.issubdtype(x.dtype, mx.integer) for x in given)


def _on(stream: Any, function: Function, *args: Any, **kwargs: Any) -> Any:
    """Calls a function on a stream or device."""
    if stream is None:
        return function(*args, **kwargs)
    with mx.stream(stream):
        return function(*args, **kwargs)


def _is_last(axis: Any, ndim: int) -> bool:
    """Whether an operation over `axis` is one over the last axis."""
    if axis is None:
        return ndim == 1
    try:
        number = operator.index(axis)
    except TypeError:
        try:
            [number] = map(operator.index, axis)
        except (IndexError, TypeError, ValueError):
            return False
    return number in (-1, ndim - 1)


def _matmul(original: Function) -> Function:
    def matmul(a: Any, b: Any, /, *, stream: Any = None) -> Any:
        if _arrays(a, b):
            return _on(stream, kernels.matmul, a, b)
        return original(a, b, stream=stream)

    return matmul


def _matmul_operator(original: Function) -> Function:
    def operator(self: Any, other: Any) -> Any:
        if _arrays(self, other):
            return kernels.matmul(self, other)
        return original(self, other)

    return operator


def _matmul_in_place(original: Function) -> Function:
    def operator(self: Any, other: Any) -> Any:
        if _arrays(self, other):
            overwrite(self, kernels.matmul(self, other))
            return self
        return original(self, other)

    return operator


def _addmm(original: Function) -> Function:
    def addmm(
        c: Any, a: Any, b: Any, /, alpha: float = 1.0, beta: float = 1.0, *, stream: Any = None
    ) -> Any:
        # No loop: this is called for each layer with a bias.
        if _arrays(c, a, b) and c.dtype in _FLOATS and a.dtype in _FLOATS and b.dtype in _FLOATS:
            factors = _products.factor(alpha), _products.factor(beta)
            if None not in factors and _products.adds_to_product(c.shape, a.shape, b.shape):
                return _on(stream, _products.addmm, c, a, b, *factors)
        return original(c, a, b, alpha, beta, stream=stream)

    return addmm


def _inner(original: Function) -> Function:
    def inner(a: Any, b: Any, /, *, stream: Any = None) -> Any:
        if _arrays(a, b) and a.ndim and b.ndim and a.shape[-1] == b.shape[-1]:
            return _on(stream, _products.tensordot, a, b, [a.ndim - 1], [b.ndim - 1])
        return original(a, b, stream=stream)

    return inner


def _tensordot(original: Function) -> Function:
    def tensordot(a: Any, b: Any, /, axes: Any = 2, *, stream: Any = None) -> Any:
        if _arrays(a, b):
            pairs = _products.contracted(a.shape, b.shape, axes)
            if pairs is not None:
                return _on(stream, _products.tensordot, a, b, *pairs)
        return original(a, b, axes, stream=stream)

    return tensordot


def _einsum(original: Function) -> Function:
    def einsum(subscripts: Any, *operands: Any, stream: Any = None) -> Any:
        if isinstance(subscripts, str) and len(operands) == 2 and _arrays(*operands):
            product = _products.Contraction.of(subscripts, *operands)
            if product is not None:
                return _on(stream, product.compute, *operands)
        return original(subscripts, *operands, stream=stream)

    return einsum


def _quantized_matmul(original: Function) -> Function:
    def quantized_matmul(
        x: Any, w: Any, /, scales: Any, biases: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if _arrays(x, w, scales) and _arrays_or_none(biases):
            return kernels.quantized_matmul(x, w, scales, biases, *args, **kwargs)
        return original(x, w, scales, biases, *args, **kwargs)

    return quantized_matmul


def _gather_mm(original: Function) -> Function:
    def gather_mm(
        a: Any, b: Any, /, lhs_indices: Any = None, rhs_indices: Any = None, **kwargs: Any
    ) -> Any:
        if _arrays(a, b) and _indices(lhs_indices, rhs_indices):
            return kernels.gather_mm(a, b, lhs_indices, rhs_indices, **kwargs)
        return original(a, b, lhs_indices, rhs_indices, **kwargs)

    return gather_mm


def _gather_qmm(original: Function) -> Function:
    def gather_qmm(
        x: Any,
        w: Any,
        /,
        scales: Any,
        biases: Any = None,
        lhs_indices: Any = None,
        rhs_indices: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # mlx-lm passes what later versions of MLX have: None is what this one does.
        if kwargs.get("global_scale", x) is None:
            del kwargs["global_scale"]
        arrays = _arrays(x, w, scales) and _arrays_or_none(biases)
        native = arrays and _indices(lhs_indices, rhs_indices) and "global_scale" not in kwargs
        rest = (biases, lhs_indices, rhs_indices)
        return (kernels.gather_qmm if native else original)(x, w, scales, *rest, *args, **kwargs)

    return gather_qmm


def _softmax(original: Function) -> Function:
    def softmax(a: Any, /, axis: Any = None, *, precise: bool = False, stream: Any = None) -> Any:
        if _arrays(a) and mx.issubdtype(a.dtype, mx.floating) and _is_last(axis, a.ndim):
            return _on(stream, kernels.softmax, a)
        return original(a, axis, precise=precise, stream=stream)

    return softmax


def _logsumexp(original: Function) -> Function:
    def logsumexp(
        a: Any, /, axis: Any = None, keepdims: bool = False, *, stream: Any = None
    ) -> Any:
        if _arrays(a) and mx.issubdtype(a.dtype, mx.floating) and _is_last(axis, a.ndim):
            return _on(stream, kernels.logsumexp, a, keepdims=keepdims)
        return original(a, axis, keepdims, stream=stream)

    return logsumexp


def _cross_entropy(original: Function) -> Function:
    def cross_entropy(logits: Any, targets: Any, *, stream: Any = None) -> Any:
        if _arrays(logits, targets) and _are_classes(logits, targets):
            return _on(stream, _wide_cross_entropy, logits, targets)
        return original(logits, targets, stream=stream)

    return cross_entropy


def _are_classes(logits: mx.array, targets: mx.array) -> bool:
    """Whether there is a number of a class for each row of logits."""
    return (
        mx.issubdtype(logits.dtype, mx.floating)
        and mx.issubdtype(targets.dtype, mx.integer)
        and logits.shape[:-1] == targets.shape
        and logits.ndim > 0
    )


def _wide_cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Computes losses of `float32`, as MLX's."""
    return kernels.cross_entropy(logits.astype(mx.float32), targets.astype(mx.int32))


def _rms_norm(original: Function) -> Function:
    def rms_norm(x: Any, weight: Any, eps: float, *, stream: Any = None) -> Any:
        if _arrays(x) and _arrays_or_none(weight):
            return _on(stream, kernels.rms_norm, x, weight, eps)
        return original(x, weight, eps, stream=stream)

    return rms_norm


def _layer_norm(original: Function) -> Function:
    def layer_norm(x: Any, weight: Any, bias: Any, eps: float, *, stream: Any = None) -> Any:
        if _arrays(x) and _arrays_or_none(weight, bias):
            return _on(stream, kernels.layer_norm, x, weight, bias, eps)
        return original(x, weight, bias, eps, stream=stream)

    return layer_norm


def _rope(original: Function) -> Function:
    def rope(
        a: Any,
        dims: int,
        *,
        traditional: bool,
        base: float | None,
        scale: float,
        offset: Any,
        freqs: Any = None,
        stream: Any = None,
    ) -> Any:
        rest = {"traditional": traditional, "base": base, "scale": scale, "freqs": freqs}
        known_offset = type(offset) is int and -(2**31) <= offset < 2**31
        if _arrays(a) and known_offset and _arrays_or_none(freqs):
            return _on(stream, kernels.rope, a, dims, offset=offset, **rest)
        return original(a, dims, offset=offset, stream=stream, **rest)

    return rope


def _scaled_dot_product_attention(original: Function) -> Function:
    def scaled_dot_product_attention(
        q: Any,
        k: Any,
        v: Any,
        *,
        scale: float,
        mask: Any = None,
        sinks: Any = None,
        force_fused: bool = False,
        stream: Any = None,
    ) -> Any:
        known_mask = mask is None or (isinstance(mask, str) and mask == "causal") or _arrays(mask)
        if _arrays(q, k, v) and known_mask and sinks is None and not force_fused:
            native = kernels.scaled_dot_product_attention
            return _on(stream, native, q, k, v, scale=scale, mask=mask)
        return original(
            q, k, v, scale=scale, mask=mask, sinks=sinks, force_fused=force_fused, stream=stream
        )

    return scaled_dot_product_attention


REPLACEMENTS: list[tuple[Any, str, Callable[[Function], Function]]] = [
    (mx, "matmul", _matmul),
    (mx.array, "__matmul__", _matmul_operator),
    (mx.array, "__imatmul__", _matmul_in_place),
    (mx, "addmm", _addmm),
    (mx, "inner", _inner),
    (mx, "tensordot", _tensordot),
    (mx, "einsum", _einsum),
    (mx, "quantized_matmul", _quantized_matmul),
    (mx, "gather_mm", _gather_mm),
    (mx, "gather_qmm", _gather_qmm),
    (mx, "softmax", _softmax),
    (mx, "logsumexp", _logsumexp),
    (mx.array, "logsumexp", _logsumexp),
    (mx.fast, "cross_entropy", _cross_entropy),
    (mx.fast, "rms_norm", _rms_norm),
    (mx.fast, "layer_norm", _layer_norm),
    (mx.fast, "rope", _rope),
    (mx.fast, "scaled_dot_product_attention", _scaled_dot_product_attention),
]
"""The owner, the name, and what makes the replacement of the original."""
