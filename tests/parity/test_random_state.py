"""Draws without a key: the state of `mlx.core.random`, which both sides advance."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft.core as mc

DRAWS: dict[str, Callable[[Any], mx.array]] = {
    "uniform": lambda r: r.uniform(shape=(4,)),
    "normal": lambda r: r.normal((4,), loc=1.0),
    "multivariate_normal": lambda r: r.multivariate_normal(
        mx.zeros(2), mx.eye(2), (3,), stream=mx.cpu
    ),
    "randint": lambda r: r.randint(0, 100, (4,)),
    "bernoulli": lambda r: r.bernoulli(0.5, (8,)),
    "truncated_normal": lambda r: r.truncated_normal(-1, 1, (4,)),
    "gumbel": lambda r: r.gumbel((4,)),
    "laplace": lambda r: r.laplace((4,)),
    "categorical": lambda r: r.categorical(mx.ones((3, 5))),
    "permutation": lambda r: r.permutation(9),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_takes_the_next_key_and_advances_the_state(name: str) -> None:
    draw = DRAWS[name]
    mx.random.seed(7)
    expected = [draw(mx.random), mx.random.uniform(shape=(2,)), draw(mx.random)]
    mc.random.seed(7)
    found = [draw(mc.random), mx.random.uniform(shape=(2,)), draw(mc.random)]
    for left, right in zip(expected, found, strict=True):
        assert left.tolist() == right.tolist()


def test_a_wrong_argument_advances_the_state_as_in_mlx() -> None:
    for random in (mx.random, mc.random):
        mx.random.seed(7)
        with pytest.raises(ValueError, match="mean"):
            random.multivariate_normal(mx.zeros(2), mx.eye(3))
        assert mx.random.state[0].tolist() == mx.random.split(mx.random.key(7))[0].tolist()


def test_a_given_key_leaves_the_state() -> None:
    mc.random.seed(3)
    mc.random.uniform(key=mx.random.key(1))
    assert mc.random.state[0].tolist() == mx.random.key(3).tolist()
    assert mc.random.state is mx.random.state


def test_compiled_functions_capture_the_state() -> None:
    results = []
    for random in (mx.random, mc.random):
        mx.random.seed(11)

        def draw(x: mx.array, random: Any = random) -> mx.array:
            return x + random.normal(x.shape) * random.bernoulli(0.5, x.shape)

        compiled = mx.compile(draw, inputs=mx.random.state, outputs=mx.random.state)
        results.append([compiled(mx.zeros(4)).tolist() for _ in range(3)])
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]


def test_each_thread_has_its_own_state() -> None:
    drawn: dict[str, list[Any]] = {}

    def work(name: str, random: Any) -> None:
        mx.random.seed(5)
        drawn[name] = [random.uniform(shape=(2,), stream=mx.cpu).tolist() for _ in range(2)]
        mx.clear_streams()

    mx.random.seed(9)
    before = mx.random.state[0].tolist()
    for name, random in (("mlx", mx.random), ("graft", mc.random)):
        thread = threading.Thread(target=work, args=(name, random))
        thread.start()
        thread.join()
    assert drawn["mlx"] == drawn["graft"]
    assert mx.random.state[0].tolist() == before


def test_the_state_that_mlx_dropped_is_not_used() -> None:
    def work(outcome: list[Any]) -> None:
        mc.random.seed(5)
        mx.clear_streams()
        mc.random.seed(6)
        outcome.append(mx.random.state[0].tolist())

    outcome: list[Any] = []
    thread = threading.Thread(target=work, args=(outcome,))
    thread.start()
    thread.join()
    assert outcome == [mx.random.key(6).tolist()]
