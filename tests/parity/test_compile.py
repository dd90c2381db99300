"""Compiled functions: captured state, random numbers, and what is traced anew."""

from __future__ import annotations

import functools
import math
import threading
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_map

import mlx_graft.core as mg

BOTH = pytest.mark.parametrize("m", [mx, mg], ids=["mlx", "graft"])


@BOTH
def test_compiled_state_is_read_and_written(m: ModuleType) -> None:
    state = {"n": mx.array(0.0), "list": [mx.array(1.0)], "text": "kept"}
    runs = []

    @functools.partial(m.compile, inputs=state, outputs=state)
    def step(x: mx.array) -> mx.array:
        runs.append(1)
        state["n"] = state["n"] + x
        state["list"][0] = state["list"][0] * 2
        return state["n"] * 10

    results = [step(mx.array(3.0)).item() for _ in range(3)]
    assert results == [30.0, 60.0, 90.0]
    assert (state["n"].item(), state["list"][0].item(), state["text"]) == (9.0, 8.0, "kept")
    state["n"] = mx.array(100.0)
    assert step(mx.array(1.0)).item() == 1010.0
    assert len(runs) == 1


def compiled_steps(m: ModuleType) -> list[float]:
    """Trains a small model in a function compiled by `m`, with dropout and an optimizer."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = optim.AdamW(1e-2)
    mx.eval(model.parameters())
    x, y = (mx.random.normal((16, n), key=mx.random.key(n)) for n in (3, 1))
    state = [model.state, optimizer.state, mx.random.state]

    def mse(x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.mse_loss(model(x), y)

    grad = nn.value_and_grad(model, mse) if m is mx else None

    @functools.partial(m.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        if grad is not None:
            value, grads = grad(x, y)
        else:

            def of(parameters: Any) -> mx.array:
                model.update(parameters)
                return mse(x, y)

            value, grads = m.value_and_grad(of)(model.trainable_parameters())
        optimizer.update(model, grads)
        return value

    losses = []
    for _ in range(5):
        losses.append(step(x, y).item())
        mx.eval(state)
    return losses


def test_a_model_and_its_optimizer_in_a_compiled_step() -> None:
    expected = compiled_steps(mx)
    assert compiled_steps(mg) == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) == 5
    assert all(math.isfinite(value) for value in expected)


def test_a_failed_trace_leaves_the_captured_state() -> None:
    state = {"n": mx.array(1.0), "list": [mx.array(2.0), (mx.array(3.0), [mx.array(4.0)])]}
    before = tree_map(mx.array.item, state)
    arrays = [state["n"], state["list"][0]]
    key = np.array(mx.random.state[0]).tolist()

    @functools.partial(
        mg.compile, inputs=[state, mx.random.state], outputs=[state, mx.random.state]
    )
    def fails(x: mx.array) -> mx.array:
        state["n"] = state["n"] + x
        state["list"][0] = x
        state["list"][1] = (x, [x])
        mx.random.uniform()
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fails(mx.array(5.0))
    assert tree_map(mx.array.item, state) == before
    assert state["n"] is arrays[0]
    assert state["list"][0] is arrays[1]
    assert np.array(mx.random.state[0]).tolist() == key


@BOTH
def test_random_numbers_in_a_compiled_function(m: ModuleType) -> None:
    mx.random.seed(3)
    draw = m.compile(lambda: mx.random.uniform(shape=(2,)), mx.random.state, mx.random.state)
    first, second = draw(), draw()
    assert not mx.array_equal(first, second)
    mx.random.seed(3)
    assert mx.array_equal(draw(), first)
    fixed = m.compile(lambda: mx.random.uniform(shape=(2,)))
    assert mx.array_equal(fixed(), fixed())


def test_structures_that_differ_are_traced_apart() -> None:
    x, y = mx.array(2.0), mx.array(3.0)
    flat = mg.compile(lambda *args: [len(args), len(args[0])])
    assert (flat([x, y]), flat([x], y)) == ([1, 2], [2, 1])
    same = mg.compile(lambda x, n: x * n)
    assert [same(x, n).dtype for n in (0.0, 0, 1, True)] == [mx.float32] * 4
    kind = mg.compile(lambda n: type(n).__name__)
    assert [kind(n) for n in (0, 0.0, None, "", False)] == [
        "int",
        "float",
        "NoneType",
        "str",
        "int",
    ]


@BOTH
def test_compile_can_be_disabled(m: ModuleType) -> None:
    runs = []
    f = m.compile(lambda x: [runs.append(1), x][1])
    try:
        m.disable_compile()
        f(mx.ones(3))
        f(mx.ones(3))
        assert len(runs) == 2
    finally:
        m.enable_compile()
    f(mx.ones(3))
    f(mx.ones(3))
    assert len(runs) == 3


def test_each_compilation_has_traces_of_its_own() -> None:
    by = [2.0]

    def f(x: mx.array) -> mx.array:
        return x * by[0]

    first = mg.compile(f)
    assert first(mx.array(1.0)).item() == 2.0
    by[0] = 5.0
    second = mg.compile(f)
    assert second(mx.array(1.0)).item() == 5.0
    del second
    assert first(mx.array(1.0)).item() == 2.0


def test_any_thread_may_call_a_compiled_function() -> None:
    f = mg.compile(lambda x: (x * 2 + 1, "text"))
    results: list[float] = []

    def work() -> None:
        for i in range(20):
            results.append(f(mx.array(float(i)))[0].item())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([2.0 * i + 1 for i in range(20)] * 8)
