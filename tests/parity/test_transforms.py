"""Transformations of Python functions, against `mlx.core`: values, gradients, trees, exceptions."""

from __future__ import annotations

import functools
import inspect
from collections import namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft.core as mg

Pair = namedtuple("Pair", ["first", "second"])
BOTH = pytest.mark.parametrize("m", [mx, mg], ids=["mlx", "graft"])


def data(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def plain(tree: Any) -> Any:
    """A tree with arrays as dtype, shape and values, which `==` compares."""
    if isinstance(tree, mx.array):
        values = np.array(tree.astype(mx.float32)) if tree.dtype == mx.bfloat16 else np.array(tree)
        return ("array", str(tree.dtype), tree.shape, np.round(values, 4).tolist())
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree).__name__, [plain(item) for item in tree]
    return tree


def outcome(call: Callable[[ModuleType], Any], m: ModuleType) -> Any:
    """What a call returns, or the type and text of what it raises."""
    try:
        return plain(call(m))
    except Exception as error:
        return type(error).__name__, str(error).split(" at /")[0]


def loss(w: mx.array, x: mx.array) -> mx.array:
    return mx.square(mx.tanh(x @ w)).sum()


def of_tree(p: dict[str, Any]) -> mx.array:
    return (p["a"][0] * p["b"]["c"]).sum() + p["a"][1].sum()


TREE = {"a": [data(3), data(2, seed=1)], "b": {"c": data(3, seed=2)}}


def with_rules(m: ModuleType) -> Any:
    @m.custom_function
    def f(x: Any, y: Any) -> Any:
        return mx.sin(x) * y

    @f.vjp
    def f_vjp(primals: Any, cotangent: Any, output: Any) -> Any:
        _, y = primals
        return 2 * cotangent * y, 3 * cotangent * output

    @f.jvp
    def f_jvp(primals: Any, tangents: Any) -> Any:
        terms = zip(primals, tangents, strict=True)
        return sum(t * (x + 5) for x, t in terms if t is not None)

    @f.vmap
    def f_vmap(inputs: Any, axes: Any) -> Any:
        x, y = inputs
        return 7 * x * (1 if y is None else y), axes[0]

    return f


def with_named(m: ModuleType) -> Any:
    f = m.custom_function(lambda x, by: {"out": x["v"] * by, "n": [x["v"]]})
    f.vjp(lambda _x, dy, _y, by: {"v": 10 * dy["out"] * by})
    return m.grad(lambda v: f({"v": v}, by=mx.array(2.0))["out"].sum())(data(3))


def cubes(m: ModuleType) -> Any:
    return m.compile(m.vmap(m.grad(lambda x: x * x * x)))(data(4))


CALLS: dict[str, Callable[[ModuleType], Any]] = {
    "grad": lambda m: m.grad(loss)(data(3, 2), data(4, 3)),
    "grad of the second": lambda m: m.grad(loss, 1)(data(3, 2), data(4, 3)),
    "grad of both": lambda m: m.grad(loss, [1, 0])(data(3, 2), data(4, 3)),
    "grad by name": lambda m: m.grad(loss, argnames="x")(data(3, 2), x=data(4, 3)),
    "grad by number and names": lambda m: m.grad(loss, 0, ("x",))(data(3, 2), x=data(4, 3)),
    "grad by a set": lambda m: m.grad(loss, argnames={"w", "x"})(w=data(3, 2), x=data(4, 3)),
    "grad of a tree": lambda m: m.grad(of_tree)(TREE),
    "grad of a named tuple": lambda m: m.grad(lambda p: (p.first * p[1]).sum())(
        Pair(data(3), data(3, seed=1))
    ),
    "value and grad": lambda m: m.value_and_grad(loss)(data(3, 2), data(4, 3)),
    "value with more": lambda m: m.value_and_grad(lambda x: (x.sum(), "text", {"y": [x, 3]}))(
        data(3)
    ),
    "no dependence": lambda m: m.grad(lambda _, y: y.sum())(data(3), data(2)),
    "bfloat16": lambda m: m.grad(lambda x: (x * x).sum())(data(3).astype(mx.bfloat16)),
    "constants beside": lambda m: m.grad(lambda x, n, _: (x * n).sum())(data(3), 4, "s"),
    "second derivative": lambda m: m.grad(lambda x: m.grad(loss)(x, data(4, 3)).sum())(data(3, 2)),
    "third derivative": lambda m: m.grad(m.grad(m.grad(mx.sin)))(mx.array(0.3)),
    "mixed with mlx": lambda m: mx.grad(lambda x: m.grad(loss)(x, data(4, 3)).sum())(data(3, 2)),
    "within mlx": lambda m: m.grad(lambda x: mx.grad(loss)(x, data(4, 3)).sum())(data(3, 2)),
    "vjp": lambda m: m.vjp(lambda x, y: (x * y, x), [data(3), data(3, seed=1)], [data(3)] * 2),
    "vjp of one": lambda m: m.vjp(mx.sin, (data(3),), (data(3, seed=1),)),
    "jvp": lambda m: m.jvp(lambda x, y: [x * y, x], [data(3), data(3, seed=1)], [data(3)] * 2),
    "vmap": lambda m: m.vmap(loss, (0, None))(data(5, 3, 2), data(4, 3)),
    "vmap of other axes": lambda m: m.vmap(lambda x, y: x @ y, (2, -1), 1)(
        data(3, 4, 5), data(4, 2, 5)
    ),
    "vmap of a tree": lambda m: m.vmap(
        lambda p, q: {"s": p["a"] + q, "q": [q]}, ({"a": 1}, None), {"s": 0, "q": [None]}
    )({"a": data(2, 3)}, data(2)),
    "vmap of one argument": lambda m: m.vmap(lambda p: p[0] * p[1], [0, None])(
        [data(3, 2), data(2)]
    ),
    "vmap in a tuple": lambda m: m.vmap(mx.sin, (1,))(data(2, 3)),
    "cubes": cubes,
    "compile": lambda m: m.compile(loss)(data(3, 2), data(4, 3)),
    "compile with constants": lambda m: [
        m.compile(f := lambda x, n, s="a": x * n + len(s))(data(2), 2),
        m.compile(f)(data(2), 3.5, s="bc"),
    ],
    "compile of trees": lambda m: m.compile(lambda t: {"x": t["a"], "n": None, "p": Pair(1, 2)})(
        TREE
    ),
    "compile shapeless": lambda m: [
        g := m.compile(mx.square, shapeless=True),
        [g(data(n)) for n in (2, 3)],
    ][1],
    "shapeless that cannot": lambda m: m.compile(lambda x: x.reshape(-1, 2), shapeless=True)(
        data(3, 4)
    ),
    "compile of a gradient": lambda m: m.compile(m.value_and_grad(loss))(data(3, 2), data(4, 3)),
    "gradient of a compilation": lambda m: m.grad(m.compile(loss))(data(3, 2), data(4, 3)),
    "checkpoint": lambda m: m.grad(m.checkpoint(loss))(data(3, 2), data(4, 3)),
    "checkpoint by name": lambda m: m.grad(lambda w: m.checkpoint(loss)(w, x=data(4, 3)))(
        data(3, 2)
    ),
    "checkpoint with more": lambda m: m.checkpoint(lambda x: (x, {"k": "text"}))(data(2)),
    "custom": lambda m: with_rules(m)(data(3), data(3, seed=1)),
    "custom vjp": lambda m: m.grad(lambda *a: with_rules(m)(*a).sum(), [0, 1])(
        data(3), data(3, seed=1)
    ),
    "custom jvp": lambda m: m.jvp(with_rules(m), [data(3), data(3, seed=1)], [data(3)] * 2),
    "custom jvp of one": lambda m: m.jvp(
        lambda x: with_rules(m)(x, data(3, seed=1)), [data(3)], [data(3)]
    ),
    "custom vmap": lambda m: m.vmap(with_rules(m), (1, None))(data(3, 2), mx.array(2.0)),
    "custom by name": with_named,
    "custom in a compiled gradient": lambda m: m.compile(
        m.grad(lambda x: with_rules(m)(x, x).sum())
    )(data(3)),
    "eval in a gradient": lambda m: m.grad(lambda x: [m.eval(y := x.sum()), y][1])(data(3)),
    "eval of anything": lambda m: m.eval(data(3), [{"a": (1, "text", None)}, object()]),
    "async eval of anything": lambda m: m.async_eval(data(3), [{"a": (1, "text", None)}, object()]),
}

BAD: dict[str, Callable[[ModuleType], Any]] = {
    "a negative number": lambda m: m.grad(loss, -1),
    "a number twice": lambda m: m.grad(loss, [0, 0]),
    "no number": lambda m: m.value_and_grad(loss, []),
    "too large a number": lambda m: m.grad(loss, [0, 3])(data(3, 2), data(4, 3)),
    "a name that is not there": lambda m: m.grad(loss, argnames="z")(data(3, 2), x=data(4, 3)),
    "no scalar": lambda m: m.grad(lambda x: x)(data(3)),
    "no array": lambda m: m.grad(lambda _: 3)(data(3)),
    "a tuple": lambda m: m.grad(lambda x: (x.sum(),))(data(3)),
    "a list": lambda m: m.value_and_grad(lambda x: [x.sum()])(data(3)),
    "an empty tuple": lambda m: m.value_and_grad(lambda _: ())(data(3)),
    "a tuple of no array": lambda m: m.value_and_grad(lambda x: (3, x))(data(3)),
    "no array to differentiate": lambda m: m.grad(lambda x: x)(3.0),
    "an empty tree": lambda m: m.grad(lambda _: mx.array(1.0))({}),
    "vjp of no array": lambda m: m.vjp(lambda _: 3, [data(3)], [data(3)]),
    "vjp with few cotangents": lambda m: m.vjp(lambda x: (x, x), [data(3)], [data(3)]),
    "vjp of another shape": lambda m: m.vjp(mx.sin, [data(3)], [data(4)]),
    "jvp with many tangents": lambda m: m.jvp(mx.sin, [data(3)], [data(3)] * 2),
    "jvp of another shape": lambda m: m.jvp(mx.sin, [data(3)], [data(4)]),
    "vmap without arguments": lambda m: m.vmap(lambda: data(3))(),
    "vmap of no axis": lambda m: m.vmap(lambda x, _: x, (None, None))(data(3), data(3)),
    "vmap of no such axis": lambda m: m.vmap(mx.sin, 3)(data(3)),
    "vmap of no such negative axis": lambda m: m.vmap(mx.sin, -3)(data(3)),
    "vmap of no such output axis": lambda m: m.vmap(mx.sin, 0, 3)(data(3)),
    "vmap of a text": lambda m: m.vmap(mx.sin, "a")(data(3)),
    "vmap of no array": lambda m: m.vmap(lambda _: 3)(data(3)),
    "vmap with no array": lambda m: m.vmap(lambda x: x)(3),
    "vmap of other sizes": lambda m: m.vmap(mx.add)(data(3), data(4)),
    "vmap of another tree": lambda m: m.vmap(lambda p: p["a"], {"b": 0})({"a": data(3)}),
    "vmap of a longer list": lambda m: m.vmap(lambda p: p[0], [0, 0])([data(3)]),
    "vmap of a scalar": lambda m: m.vmap(mx.sin)(mx.array(1.0)),
    "compile with an object": lambda m: m.compile(lambda x: x)(object()),
    "compile with bytes": lambda m: m.compile(lambda x: x)(b"a"),
    "compile with a huge number": lambda m: m.compile(lambda x: x)(1 << 70),
    "eval in a compilation": lambda m: m.compile(lambda x: [m.eval(y := x.sum()), y][1])(data(3)),
    "item in a compilation": lambda m: m.compile(lambda x: x.sum().item())(data(3)),
    "shapes in a function": lambda m: m.grad(lambda x: (x + data(4)).sum())(data(3)),
    "an exception": lambda m: m.grad(lambda _: {}["key"])(data(3)),
    "an exception in a rule": lambda m: m.grad(
        lambda x: m.custom_function(mx.sin).vjp(lambda *_: 1 / 0)(x).sum()
    )(data(3)),
    "vmap rule of no tuple": lambda m: m.vmap(m.custom_function(mx.sin).vmap(lambda x, _: x))(
        data(3)
    ),
    "jvp rule by name": lambda m: m.jvp(
        lambda x: m.custom_function(lambda x, k: x + k).jvp(lambda _, t: t)(x, k=x),
        [data(3)],
        [data(3)],
    ),
    "custom function of no array": lambda m: m.custom_function(lambda _: 3).vjp(mx.sin)(data(3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_mlx(name: str) -> None:
    assert outcome(CALLS[name], mg) == outcome(CALLS[name], mx)


@pytest.mark.parametrize("name", BAD)
def test_failures_are_those_of_mlx(name: str) -> None:
    expected, found = outcome(BAD[name], mx), outcome(BAD[name], mg)
    # The text of MLX begins with the operation where its own does not.
    assert (found[0], found[1].removeprefix("[vmap] ")) == (
        expected[0],
        expected[1].removeprefix("[vmap] "),
    )
    assert expected[0].endswith(("Error", "Exception"))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.grad(3),
        lambda m: m.grad(loss, "a"),
        lambda m: m.grad(loss, 1.0),
        lambda m: m.grad(loss, argnames=None),
        lambda m: m.grad(loss, 0, [], 1),
        lambda m: m.vjp(mx.sin, 3, [data(3)]),
        lambda m: m.vjp(mx.sin, [3], [data(3)]),
        lambda m: m.vmap(mx.sin, None),
        lambda m: m.vmap(mx.sin)(a=data(3)),
        lambda m: m.compile(mx.sin, shapeless=1),
        lambda m: m.compile(mx.sin, other=1),
        lambda m: m.checkpoint("f"),
        lambda m: m.custom_function(3),
        lambda m: m.custom_function(mx.sin).vjp(3),
        lambda m: m.eval(a=data(3)),
        lambda m: m.disable_compile(1),
    ],
)
def test_wrong_arguments_are_type_errors(call: Callable[[ModuleType], Any]) -> None:
    for m in (mx, mg):
        with pytest.raises(TypeError):
            call(m)


def test_exceptions_are_the_same_object() -> None:
    class Mine(BaseException):
        pass

    mine = Mine("text")

    def fails(*_: Any) -> mx.array:
        raise mine

    x = data(3)
    rules = mg.custom_function(mx.sin)
    rules.vjp(fails).jvp(fails).vmap(fails)
    for call in (
        lambda: mg.grad(fails)(x),
        lambda: mg.vjp(fails, [x], [x]),
        lambda: mg.jvp(fails, [x], [x]),
        lambda: mg.vmap(fails)(x),
        lambda: mg.compile(fails)(x),
        lambda: mg.checkpoint(fails)(x),
        lambda: mg.custom_function(fails).vjp(fails)(x),
        lambda: mg.grad(lambda x: rules(x).sum())(x),
        lambda: mg.jvp(rules, [x], [x]),
        lambda: mg.vmap(rules)(x),
        lambda: mg.compile(mg.vmap(mg.grad(fails)))(x),
        lambda: mx.grad(lambda x: mg.compile(fails)(x).sum())(x),
        lambda: mg.grad(lambda x: mx.vmap(fails)(x).sum())(x),
    ):
        with pytest.raises(Mine) as caught:
            call()
        assert caught.value is mine
        assert caught.traceback[-1].name == "fails"


@BOTH
def test_wrappers_look_like_their_functions(m: ModuleType) -> None:
    def f(x: mx.array, y: int = 3) -> mx.array:
        """Words."""
        return x.sum() * y

    for wrap in (m.grad, m.value_and_grad, m.vmap, m.compile, m.checkpoint):
        wrapped = wrap(f)
        assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == (
            "f",
            "Words.",
            f.__module__,
        )
        assert inspect.signature(wrapped) == inspect.signature(f)
        assert not hasattr(wrapped, "__wrapped__")
        assert not hasattr(wrap(functools.partial(f)), "__name__")
        with pytest.raises(AttributeError):
            wrapped.other = 1
        assert functools.wraps(wrapped)(lambda: None).__name__ == "f"


@BOTH
def test_the_callers_containers_keep_their_arrays(m: ModuleType) -> None:
    tree: dict[str, Any] = {"a": [data(3), data(3)], "t": (data(2), [data(2)])}
    before = [tree["a"][0], tree["a"][1], tree["t"][0], tree["t"][1][0]]
    for fails in (False, True):

        def f(p: dict[str, Any], fails: bool = fails) -> mx.array:
            if fails and m is mg:
                raise KeyError("on purpose")
            return p["a"][0].sum() + p["t"][1][0].sum()

        try:
            m.grad(f)(tree)
        except KeyError:
            assert fails
        after = [tree["a"][0], tree["a"][1], tree["t"][0], tree["t"][1][0]]
        assert all(a is b for a, b in zip(before, after, strict=True))


@BOTH
def test_what_a_function_writes_into_its_argument_stays(m: ModuleType) -> None:
    state = {"x": mx.array(2.0), "kept": mx.array(1.0)}

    def f(s: dict[str, mx.array]) -> mx.array:
        s["x"] = mx.array(7.0)
        return s["kept"] * 3

    m.grad(f)(state)
    assert (state["x"].item(), state["kept"].item()) == (7.0, 1.0)


def test_a_rule_that_forgets_a_product_is_an_error() -> None:
    f = mg.custom_function(mx.add)
    f.vjp(lambda _x, dy, _y: dy)
    with pytest.raises(ValueError, match="2 arrays, not 1"):
        mg.grad(lambda x: f(x, x).sum())(data(3))
    g = mg.custom_function(mx.add)
    g.vjp(lambda _x, dy, _y: (None, 2 * dy))
    first, second = mg.grad(lambda x, y: g(x, y).sum(), [0, 1])(data(2), data(2))
    assert (first.tolist(), second.tolist()) == ([0.0, 0.0], [2.0, 2.0])
    with pytest.raises(ValueError, match="returned no array"):
        mg.checkpoint(lambda _: 3)(data(2))


def test_evaluation_lets_other_threads_run() -> None:
    import threading

    x = mx.random.normal((512, 512))
    mx.eval(x)
    ticks, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        y = x
        for _ in range(6):
            y = mx.matmul(y, x) * 1e-2
        before = ticks[0]
        mg.eval(y)
        during = ticks[0] - before
    finally:
        stop.set()
        thread.join()
    assert during > 0
