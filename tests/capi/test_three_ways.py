"""C through cffi, Rust through `mlx_graft.core`, and `mlx.core`: the same bytes, the same errors.

The shared libmlxc is driven as by a stranger: declarations from the shipped headers, arrays handed
over as bytes and read back as bytes. The operations run the cases of the generated table; what is
no operation has samples by hand, and the headers say whether a group of functions has none.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import Maker, Op, outcome
from support import c_headers
from support.c_caller import Library, NotInCError
from support.c_samples import SAMPLES, Sample
from support.c_samples import sample as samples

cffi = pytest.importorskip("cffi")
GENERATED = [op for op in OPS if op.c]


BACKWARD = 0  # mlx_fft_norm


def line(length: int, axis: int = -1) -> Callable[[], dict[str, Any]]:
    """Arguments of a transform along one axis."""
    return lambda: {"a": Maker(mx.float32)(3, 8), "n": length, "axis": axis, "norm": BACKWARD}


def plane(*lengths: int) -> Callable[[], dict[str, Any]]:
    """Arguments of a transform along two axes."""
    return lambda: {"a": Maker(mx.float32)(4, 6), "n": lengths, "axis": (0, 1), "norm": BACKWARD}


def convolution(dims: int, transposed: bool) -> Callable[[], dict[str, Any]]:
    """Arguments of a convolution: a stride, a padding and a dilation for each dimension."""
    names = ["stride", "padding", "dilation", *(["output_padding"] if transposed else [])]
    numbers = [2, 1, 1, 0]

    def make() -> dict[str, Any]:
        x = Maker(mx.float32)
        found: dict[str, Any] = {"input": x(1, *[7] * dims, 2), "weight": x(4, *[3] * dims, 2)}
        for name, number in zip(names, numbers, strict=False):
            found |= {f"{name}_{axis}": number for axis in range(dims)}
        return {**found, "groups": 1}

    return make


def spread(name: str, dims: int) -> Callable[..., Any]:
    """The convolution in Python, which takes one argument for all dimensions."""

    def call(module: Any, x: mx.array, w: mx.array, *numbers: int) -> Any:
        groups = [numbers[at : at + dims] for at in range(0, len(numbers) - 1, dims)]
        return getattr(module, name)(x, w, *groups, numbers[-1])

    return call


# Functions whose arguments are others in Python: what C gets, and the call in Python.
DIRECT: dict[str, tuple[Callable[[], dict[str, Any]], Callable[..., Any]]] = {
    **{
        f"mlx_fft_{name}": (
            line(n),
            lambda m, a, n, axis, _, name=name: getattr(m.fft, name)(a, n, axis),
        )
        for name, n in [("fft", 8), ("ifft", 5), ("rfft", 8), ("irfft", 10)]
    },
    **{
        f"mlx_fft_{name}": (
            plane(4, 6),
            lambda m, a, n, axes, _, name=name: getattr(m.fft, name)(a, n, axes),
        )
        for kind in ("fft", "ifft", "rfft", "irfft")
        for name in (f"{kind}2", f"{kind}n")
    },
    **{
        f"mlx_{name}": (convolution(dims, "transpose" in name), spread(name, dims))
        for name, dims in [
            ("conv2d", 2),
            ("conv3d", 3),
            ("conv_transpose2d", 2),
            ("conv_transpose3d", 3),
        ]
    },
}


@pytest.fixture(scope="module")
def c() -> Library:
    include = Path(mg.capi.include())
    ffi = cffi.FFI()
    ffi.cdef(c_headers.declarations(include))
    return Library(ffi, ffi.dlopen(str(mg.capi.library())), c_headers.functions(include))


def in_c(run: Callable[[], Any]) -> Any:
    """Dtype, shape and bytes of each result, or the type of the exception."""
    try:
        return run()
    except NotInCError:
        raise
    except Exception as error:
        return type(error)


def in_python(c: Library, run: Callable[[], Any]) -> Any:
    """The same of a function in Python."""
    found = outcome(run)
    if isinstance(found, type):
        return found
    return [c.plain(a) for a in found]


@pytest.mark.parametrize("op", GENERATED, ids=lambda op: op.name)
def test_operation(op: Op, c: Library) -> None:
    compared = 0
    for case in [*op.cases, *op.bad]:
        for dtype in (mx.float32, mx.int32):
            try:
                found = in_c(lambda: case(c.operation(op), Maker(dtype)))  # noqa: B023
            except NotInCError:
                continue
            for function in (op.peer, op.ours):
                expected = in_python(c, lambda: case(function, Maker(dtype)))  # noqa: B023
                # An argument that Python refuses by itself never reaches C.
                if expected is not TypeError:
                    assert found == expected, f"{op.name}, {case}, {dtype}"
            compared += 1
    assert compared or set(op.c) <= set(DIRECT), f"no case of {op.name} can be said in C"


@pytest.mark.parametrize("function", DIRECT)
def test_arguments_of_their_own(function: str, c: Library) -> None:
    values, call = DIRECT[function]
    found = in_c(lambda: c.call(function, values()))
    assert not isinstance(found, type)
    for module in (mx, mg.core):
        assert found == in_python(c, lambda: call(module, *values().values()))  # noqa: B023


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample(sample: Sample, c: Library, tmp_path: Path) -> None:
    found = samples.in_c(c, sample, tmp_path)
    assert sample.fails or not isinstance(found, type), found
    for module in (mx, mg.core):
        assert found == samples.in_python(c, sample, module, tmp_path)


#: Functions that cannot be called where a platform is absent, whose groups have no other member.
NEEDED = {
    "mlx_fast_cuda_kernel_apply": ("CUDA", mx.cuda.is_available),
}


def test_every_signature_group_has_a_sample(c: Library, tmp_path: Path) -> None:
    """Functions whose results and parameters have the same types are a group."""
    c.called.clear()
    for op in GENERATED:
        for case in op.cases:
            with contextlib.suppress(NotInCError):
                in_c(lambda: case(c.operation(op), Maker(mx.float32)))  # noqa: B023
    for function, (values, _) in DIRECT.items():
        c.call(function, values())
    for sample in SAMPLES:
        samples.in_c(c, sample, tmp_path)
    signatures = c_headers.signatures(Path(mg.capi.include()))
    called = {signatures[name] for name in c.called & set(signatures)}
    absent = {name for name, (_, is_available) in NEEDED.items() if not is_available()}
    groups: dict[str, list[str]] = {}
    for name, signature in signatures.items():
        groups.setdefault(signature, []).append(name)
    without = [names for signature, names in groups.items() if signature not in called]
    missing = [names for names in without if not set(names) <= absent]
    assert not missing, "\n".join(map(str, missing))
    assert len(groups) > 400, "the headers declare fewer groups than they should"


def chosen(op: Op) -> tuple[str, ...]:
    """The functions between which a Python call chooses: with an axis by default, not the first."""
    axis = inspect.signature(op.ours).parameters.get("axis")
    given = axis is not None and isinstance(axis.default, int) and f"{op.c[0]}_axis" in op.c
    return op.c[1:] if given else op.c
