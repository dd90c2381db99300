"""Every operation on shapes, layouts, dtypes and numbers that Hypothesis chooses.

The cases are those of the table with other lengths: each length of a case is replaced by a larger
one, the same wherever it occurs, so that what broadcasts still does; some arrays get a wrong
length, and then both sides must raise the same type of exception. `make test` runs a fixed sample,
`make parity` many examples of every operation, others on each run.
"""

from __future__ import annotations

import functools
import os

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import DTYPES, FLOATING, Maker, Op, Verdict, gradient, values
from support.threads import off_the_main_thread

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "2"))
SAMPLE = EXAMPLES <= 2
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]
# The lengths that are replaced: longer ones are there for the blocks of a kernel.
LENGTHS = range(2, 8)
# MLX's gradient writes outside its memory where an element is NaN.
UNSAFE_WITH_NAN = ("cummax", "cummin")
# Reference LAPACK, which MLX has for the CPU, ends the process for some matrices with NaN or
# infinity.
UNBEARABLE_WITH_NAN = ("linalg.",)
LAYOUTS = ["row-major", "transposed", "strided", "broadcast"]


class Varied(Maker):
    """A maker of arrays with other lengths, layouts and numbers than a case asks for."""

    def __init__(
        self,
        dtype: mx.Dtype,
        *,
        lengths: dict[int, int],
        layouts: list[str],
        special: bool,
        wrong: int | None,
        given: list[mx.array] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dtype, given, seed)
        self.lengths = lengths
        self.layouts = layouts
        self.special = special
        self.wrong = wrong
        self.count = 0

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.count += 1
        found = tuple(self.lengths.get(length, length) for length in shape)
        if self.wrong == self.count and found:
            return (*found[:-1], found[-1] + 1)
        return found

    def number(self) -> float:
        if self.special and self.random.random() < 0.25:
            return self.random.choice(SPECIAL)
        return super().number()

    def layout(self, array: mx.array) -> mx.array:
        kind = self.layouts[self.count % len(self.layouts)]
        if array.ndim == 0 or array.size == 0 or kind == "row-major":
            return array
        if kind == "transposed":
            return mx.contiguous(array.T).T
        if kind == "strided":
            return mx.repeat(array, 2, axis=0)[::2]
        return mx.broadcast_to(array, (2, *array.shape))[1]


@st.composite
def makers(draw: st.DrawFn, dtypes: tuple[mx.Dtype, ...]) -> functools.partial[Varied]:
    # No length shrinks, and none overtakes another: an index that a case names stays in range,
    # which MLX does not check.
    count = len(LENGTHS)
    more = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count).map(sorted))
    lengths = {length: length + by for length, by in zip(LENGTHS, more, strict=True)}
    return functools.partial(
        Varied,
        draw(st.sampled_from(dtypes)),
        lengths=lengths,
        layouts=draw(st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=3)),
        special=draw(st.booleans()),
        wrong=draw(st.sampled_from([None, None, None, 1, 2])),
        seed=draw(st.integers(0, 2**16)),
    )


def bearable(op: Op, make: functools.partial[Varied]) -> functools.partial[Varied]:
    """The maker without what ends the process."""
    if op.name.startswith(UNBEARABLE_WITH_NAN):
        return functools.partial(make, special=False)
    return make


def sample(factor: int = 1) -> settings:
    return settings(
        max_examples=EXAMPLES * factor,
        derandomize=SAMPLE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@off_the_main_thread
def test_values(op: Op) -> None:
    @sample(2)
    @given(st.integers(0, len(op.cases) - 1), makers(DTYPES))
    def check(number: int, make: functools.partial[Varied]) -> None:
        make = bearable(op, make)
        found = values(op, op.cases[number], make, f"{op.name}, case {number}, {make}")
        assert found.verdict is Verdict.EQUAL, found.where

    check()


@pytest.mark.parametrize("op", [op for op in OPS if op.grad], ids=lambda op: op.name)
@off_the_main_thread
def test_gradients(op: Op) -> None:
    @sample()
    @given(st.integers(0, len(op.cases) - 1), makers(FLOATING))
    def check(number: int, make: functools.partial[Varied]) -> None:
        make = bearable(op, make)
        if op.name in UNSAFE_WITH_NAN:
            make = functools.partial(make, special=False)
        found = gradient(op, op.cases[number], make, f"{op.name}, case {number}, {make}")
        assert found is None or found.verdict is Verdict.EQUAL, found.where

    check()
