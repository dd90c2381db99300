"""The part of the self-test about transforms: ours of our operations, and `mlx.core`'s of ours."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_graft import core
from mlx_graft.core._parity import FLOATING, Comparison, Maker, comparison, outcome

#: A call of a transform of the first module, of the function, with the arrays.
Call = Callable[[Any, Callable[..., Any], list[mx.array]], Any]
#: The numbers of the arguments of `network`.
ALL = [0, 1, 2]


def transforms(seed: int) -> Iterator[Comparison]:
    """Transforms alone, inside one another, with rules of their own, and with wrong arguments."""
    for name, call in {**KINDS, **WRONG}.items():
        for dtype in FLOATING:
            make = Maker(dtype, seed=seed)
            arrays = [make(4, 6), make(6, 3), make(3)]
            expected, found, mixed = (
                outcome(functools.partial(call, t, functools.partial(network, m), arrays))
                for t, m in ((mx, mx), (core, core), (mx, core))
            )
            yield comparison(f"{name}, {dtype}", expected, found)
            yield comparison(f"{name} of mlx.core, {dtype}", expected, mixed)


def network(m: Any, x: mx.array, w: mx.array, b: mx.array) -> Any:
    """A number that depends on all elements."""
    hidden = m.tanh(m.add(m.matmul(x, w), b))
    scaled = m.softmax(m.multiply(hidden, 2.0), axis=-1)
    return m.mean(m.square(m.subtract(scaled, m.take(w, mx.array([0, 1]), axis=1).sum())))


def value_and_grad(t: Any, f: Callable[..., Any], a: list[mx.array]) -> Any:
    """By number and by name."""
    value, gradients = t.value_and_grad(f, ALL)(*a)
    named = t.value_and_grad(lambda x, *, w, b: f(x, w, b), argnames=["w", "b"])
    other, (_, by_name) = named(a[0], w=a[1], b=a[2])
    return [value, *gradients, other, by_name["w"], by_name["b"]]


def of_a_tree(t: Any, f: Callable[..., Any], a: list[mx.array]) -> Any:
    """By a dictionary with a list in it."""
    gradient = t.grad(lambda p: f(p["x"], *p["rest"]))({"x": a[0], "rest": a[1:]})
    return [gradient["x"], *gradient["rest"]]


def grad_of_grad(t: Any, f: Callable[..., Any], a: list[mx.array]) -> Any:
    """The gradient of the sum of all gradients."""
    return t.grad(lambda *b: sum(g.sum() for g in t.grad(f, ALL)(*b)))(*a)


def with_rules(t: Any, f: Callable[..., Any]) -> Any:
    """The function with rules that are wrong on purpose, so that it shows that they are used."""
    made = t.custom_function(f)
    made.vjp(lambda primals, cotangent, _: tuple(cotangent * p for p in primals))
    made.jvp(lambda primals, tangents: sum((p * q).sum() for p, q in zip(primals, tangents)))  # noqa: B905
    made.vmap(lambda inputs, axes: (f(*inputs), None) if axes else None)
    return made


def ones_like(a: list[mx.array]) -> list[mx.array]:
    return [mx.ones_like(b) for b in a]


def compiled(t: Any, f: Callable[..., Any], a: list[mx.array], **options: Any) -> Any:
    """Called twice, so that the second call finds the trace."""
    function = t.compile(f, **options)
    return [function(*a), function(*ones_like(a))]


KINDS: dict[str, Call] = {
    "grad": lambda t, f, a: t.grad(f, ALL)(*a),
    "grad of a tree": of_a_tree,
    "grad of grad": grad_of_grad,
    "value_and_grad": value_and_grad,
    "vjp": lambda t, f, a: list(itertools.chain(*t.vjp(f, a, [mx.ones((), a[0].dtype)]))),
    "jvp": lambda t, f, a: list(itertools.chain(*t.jvp(f, a, ones_like(a)))),
    "vmap": lambda t, f, a: t.vmap(f, in_axes=(0, None, None))(*a),
    "vmap of grad": lambda t, f, a: t.vmap(t.grad(f, ALL), in_axes=(0, None, None))(*a),
    "compile": compiled,
    "compile, shapeless": functools.partial(compiled, shapeless=True),
    "compile of grad": lambda t, f, a: t.compile(t.grad(f, ALL))(*a),
    "checkpoint": lambda t, f, a: t.grad(t.checkpoint(f), ALL)(*a),
    "custom_function": lambda t, f, a: with_rules(t, f)(*a),
    "custom_function, vjp": lambda t, f, a: t.grad(with_rules(t, f), ALL)(*a),
    "custom_function, jvp": lambda t, f, a: t.jvp(with_rules(t, f), a, ones_like(a))[1],
}

#: Arguments for which `mlx.core` raises.
WRONG: dict[str, Call] = {
    "grad of no number": lambda t, f, a: t.grad(lambda x: x * f(*a))(a[0]),
    "grad by a wrong number": lambda t, f, a: t.grad(f, [3])(*a),
    "vjp with two cotangents": lambda t, f, a: t.vjp(f, a, [mx.ones(()), mx.ones(())])[1],
    "jvp without a tangent": lambda t, f, a: t.jvp(f, a, ones_like(a[1:]))[1],
    "vmap along a wrong axis": lambda t, f, a: t.vmap(f, in_axes=(2, None, None))(*a),
}
