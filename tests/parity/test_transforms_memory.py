"""Transformed functions are freed: by reference counts, by the garbage collector, and in C++."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_graft.core as mg
from support.leaks import counters

MIB = 1 << 20


class Tracked:
    """Something that can be watched dying."""


def settle() -> tuple[int, int]:
    mg.eval()
    return counters()


def custom(f: Callable[..., Any]) -> Any:
    return mg.custom_function(f).vjp(lambda x, dy, _y: mx.broadcast_to(dy, x.shape))


WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "grad": mg.grad,
    "value_and_grad": mg.value_and_grad,
    "vmap": mg.vmap,
    "checkpoint": mg.checkpoint,
    "compile": mg.compile,
    "custom_function": custom,
    "all": lambda f: mg.compile(mg.grad(lambda x: custom(mg.checkpoint(f))(x).sum())),
}
each = pytest.mark.parametrize("name", WRAPPERS)


def run(function: Callable[..., Any]) -> None:
    mx.eval(function(mx.array([1.0])))


@each
def test_a_function_dies_with_its_transformation(name: str) -> None:
    tracked = Tracked()
    died = weakref.ref(tracked)

    def make(tracked: Tracked) -> Callable[[mx.array], mx.array]:
        def f(x: mx.array) -> mx.array:
            assert tracked is not None
            return mx.square(x).sum()

        return f

    wrapped = WRAPPERS[name](make(tracked))
    run(wrapped)
    del tracked
    gc.collect()
    assert died() is not None
    del wrapped
    gc.collect()
    assert died() is None


@each
def test_a_cycle_through_a_transformation_is_collected(name: str) -> None:
    class Holder(Tracked):
        function: Any

        def square(self, x: mx.array) -> mx.array:
            return mx.square(x).sum()

    holder = Holder()
    died = weakref.ref(holder)
    holder.function = WRAPPERS[name](holder.square)
    if name != "all":
        # Within a compiled graph, a rule is C++'s, and a cycle through it stays, as in mlx.core.
        run(holder.function)
    del holder
    gc.collect()
    assert died() is None


def test_a_compiled_method_of_a_module_is_collected() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = mx.ones((256, 1024))
            self.captured = [self.weight]
            self.step = mg.compile(self.forward, inputs=self.captured, outputs=self.captured)

        def forward(self, x: mx.array) -> tuple[mx.array, object]:
            self.captured[0] = self.captured[0] + 1
            return x * self.captured[0].sum(), self.forward

    before = settle()
    model = Model()
    died = weakref.ref(model)
    y, method = model.step(mx.array(1.0))
    assert method.__self__ is model
    mx.eval(y)
    del model, y, method
    assert settle() == before
    assert died() is None


def test_axes_and_captured_trees_are_seen_by_the_collector() -> None:
    trees: list[Any] = [[], []]
    functions = [mg.vmap(mx.sin, trees[0]), mg.compile(mx.sin, trees[1], trees[1])]
    for tree, function in zip(trees, functions, strict=True):
        tracked = Tracked()
        tree += [function, tracked]
    died = [weakref.ref(tree[1]) for tree in trees]
    del trees, functions, tree, function, tracked
    gc.collect()
    assert [d() for d in died] == [None, None]


def test_traces_go_with_the_function() -> None:
    big = mx.ones((1024, 1024))
    mx.eval(big)
    before = settle()
    for _ in range(3):
        constant = big + 1
        mx.eval(constant)
        f = mg.compile(lambda x, constant=constant: x + constant)
        for n in (1, 1024):
            mx.eval(f(mx.ones((n, 1))))
        assert mx.get_active_memory() - before[1] >= 4 * MIB
        del f, constant
        assert settle() == before


def test_a_trace_may_own_a_compiled_function() -> None:
    """MLX locks its cache while it frees a trace; what is freed with it may need the same lock."""

    def make() -> Callable[[mx.array], object]:
        inner = mg.compile(mx.sin)
        inner(mx.array(1.0))
        rule = mg.compile(mx.cos)
        rule(mx.array(1.0))
        f = mg.custom_function(mx.sin)
        f.vjp(lambda x, dy, _: dy * rule(x))
        return mg.compile(lambda x: (f(x), inner))

    before = settle()
    function = make()
    function(mx.array(1.0))
    del function
    assert settle() == before


def rounds() -> list[Callable[[mx.array], object]]:
    def fails(x: mx.array) -> mx.array:
        raise ValueError(x)

    def failing(transform: Callable[[mx.array], object]) -> Callable[[mx.array], object]:
        def call(x: mx.array) -> None:
            with pytest.raises(ValueError):
                transform(x)

        return call

    def state(x: mx.array) -> mx.array:
        captured = {"n": x, "r": mx.random.state}

        def step(y: mx.array) -> mx.array:
            captured["n"] = captured["n"] + y
            return captured["n"].sum()

        return mg.compile(step, captured, captured)(x)

    def rules(x: mx.array) -> list[object]:
        f = mg.custom_function(lambda x: mx.sin(x))
        f.vjp(lambda _x, dy, y: dy * y).jvp(lambda _x, t: t).vmap(lambda x, axis: (x, axis))
        return [
            mg.grad(lambda x: f(x).sum())(x),
            mg.jvp(f, [x], [x]),
            mg.vmap(f)(x),
            f(x),
        ]

    square = lambda x: mx.square(x).sum()  # noqa: E731
    return [
        lambda x: mg.grad(square)(x),
        lambda x: mg.value_and_grad(lambda t: (t["x"].sum(), t, "text"))({"x": x}),
        lambda x: mg.vjp(mx.sin, [x], [x]),
        lambda x: mg.jvp(mx.sin, [x], [x]),
        lambda x: mg.vmap(square)(x),
        lambda x: mg.compile(square)(x),
        lambda x: mg.compile(mg.vmap(mg.grad(square)))(x),
        lambda x: mg.grad(mg.checkpoint(square))(x),
        state,
        rules,
        failing(mg.grad(fails)),
        failing(mg.compile(fails)),
        failing(mg.vmap(fails)),
        failing(lambda x: mg.vjp(fails, [x], [x])),
        failing(lambda x: mg.grad(lambda x: custom(fails)(x).sum())(x)),
        failing(lambda x: mg.grad(lambda x: x)(x)),
        failing(lambda x: mg.vmap(square, 5)(x)),
    ]


def test_a_thousand_repetitions_leave_nothing() -> None:
    x = mx.ones((8, 8))
    mx.eval(x)
    calls = rounds()
    for call in calls:
        for _ in range(3):
            mg.eval(call(x))
        before = settle()
        objects = len(gc.get_objects())
        for _ in range(1000):
            mg.eval(call(x))
        assert settle() == before
        assert len(gc.get_objects()) - objects < 100
