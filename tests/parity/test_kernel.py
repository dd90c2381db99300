"""Custom kernels: built, called and refused as in `mlx.core.fast`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest

from mlx_graft import core
from support.leaks import repeat

EXP = "uint i = thread_position_in_grid.x; out[i] = metal::exp(T(x[i]));"
METAL = mx.metal.is_available()
CUDA = mx.cuda.is_available()


def metal(m: ModuleType, **changed: Any) -> Any:
    arguments = {"name": "my_exp", "input_names": ["x"], "output_names": ["out"], "source": EXP}
    return m.fast.metal_kernel(**{**arguments, **changed})


def cuda(m: ModuleType, **changed: Any) -> Any:
    source = "auto i = cooperative_groups::this_grid().thread_rank(); out[i] = 2 * x[i];"
    arguments = {"name": "twice", "input_names": ["x"], "output_names": ["out"], "source": source}
    return m.fast.cuda_kernel(**{**arguments, **changed})


def run(kernel: Any, **changed: Any) -> list[mx.array]:
    arguments: dict[str, Any] = {
        "inputs": [mx.zeros((8,))], "output_shapes": [(8,)], "output_dtypes": [mx.float32],
        "grid": (8, 1, 1), "threadgroup": (8, 1, 1), "template": [("T", mx.float32)],
    }  # fmt: skip
    return kernel(**{**arguments, **changed})


def compiled(m: ModuleType, **changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "name": "twice", "compiled_source": b"\x00\x01", "inputs": [mx.zeros((8,)), 1.0],
        "output_shapes": [(8,)], "output_dtypes": [mx.float32], "scalars": [True, -3, 0.5],
        "grid": (8, 1, 1), "threadgroup": (8, 1, 1),
    }  # fmt: skip
    return m.fast.precompiled_cuda_kernel(**{**arguments, **changed})


BUILT: dict[str, Callable[[ModuleType], object]] = {
    "without outputs": lambda m: metal(m, output_names=[]),
    "names that are none": lambda m: metal(m, input_names=[1]),
    "a source that is none": lambda m: metal(m, source=3),
    "an unknown option": lambda m: metal(m, compile_options={"speed": "high"}),
    "an unknown mode": lambda m: metal(m, compile_options={"math_mode": "wrong"}),
    "options that are none": lambda m: metal(m, compile_options="fast"),
    "cuda": cuda,
    "cuda without outputs": lambda m: cuda(m, output_names=[]),
    "cuda with shared memory": lambda m: cuda(m, shared_memory=1024, header="//"),
    "cuda with a wrong size": lambda m: cuda(m, shared_memory="much"),
    "compiled": compiled,
    "compiled with a text": lambda m: compiled(m, compiled_source="text"),
    "compiled with a wrong scalar": lambda m: compiled(m, scalars=["a"]),
    "compiled with a wrong grid": lambda m: compiled(m, grid=(1, 1)),
    "compiled with a start": lambda m: compiled(
        m, init_value=0.0, shared_memory=16, ensure_row_contiguous=True, stream=mx.cpu
    ),
}

CALLED: dict[str, dict[str, Any]] = {
    "as it should be": {},
    "with numbers": {"inputs": [3]},
    "with booleans and integers": {"template": [("T", mx.float32), ("N", 3), ("B", True)]},
    "with a wrong template": {"template": [("T", 1.5)]},
    "with no template": {"template": None},
    "with too many inputs": {"inputs": [mx.zeros(8), mx.zeros(8)]},
    "with too few outputs": {"output_shapes": [], "output_dtypes": []},
    "with too few shapes": {"output_shapes": []},
    "with too few dtypes": {"output_dtypes": []},
    "with a dtype that is none": {"output_dtypes": ["float32"]},
    "with a start": {"init_value": 1.0, "verbose": False},
    "with a wrong grid": {"grid": (8, 1)},
    "on the gpu": {"stream": mx.gpu},
    "on the cpu": {"stream": mx.cpu},
    "on a number": {"stream": 3},
}


def outcome(call: Callable[[], object]) -> object:
    """The type of the exception and the operation that it names, or whether there is none."""
    try:
        call()
    except Exception as error:
        return type(error), str(error).split("]")[0] if str(error).startswith("[") else ""
    return "fine"


@pytest.mark.parametrize("name", BUILT)
def test_building(name: str) -> None:
    ours, theirs = outcome(lambda: BUILT[name](core)), outcome(lambda: BUILT[name](mx))
    assert ours == theirs


OPTIONS: list[dict[str, Any]] = [
    {},
    {"atomic_outputs": True, "ensure_row_contiguous": False, "header": "// nothing"},
    {"compile_options": {"math_mode": "fast"}},
    {"compile_options": {"math_mode": "relaxed"}},
    {"compile_options": {}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CALLED)
def test_calling(name: str, options: dict[str, Any]) -> None:
    kernels = [metal(m, **options) for m in (core, mx)]
    for _ in range(2):
        ours, theirs = (outcome(lambda k=k: run(k, **CALLED[name])) for k in kernels)
        if "shapes" in name or "dtypes" in name:
            ours, theirs = ours[0], theirs[0]  # type: ignore[index]
        assert ours == theirs


@pytest.mark.skipif(METAL, reason="there is Metal")
def test_without_metal_the_error_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"^\[metal_kernel\] No Metal back-end\.$"):
        run(metal(core))


@pytest.mark.skipif(CUDA, reason="there is CUDA")
def test_without_cuda_the_error_says_so() -> None:
    for call in (cuda, compiled):
        with pytest.raises(RuntimeError, match=r"^\[cuda_kernel\] No CUDA back-end\.$"):
            call(core)


@pytest.mark.skipif(not METAL, reason="needs Metal")
def test_metal_values() -> None:
    x = mx.random.normal((64, 4))
    arguments = {"inputs": [x], "output_shapes": [x.shape], "grid": (x.size, 1, 1)}
    ours, theirs = (run(metal(m), **arguments)[0] for m in (core, mx))
    assert mx.array_equal(ours, theirs)


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
def test_cuda_values() -> None:
    x = mx.random.normal((64,))
    arguments = {"inputs": [x], "output_shapes": [x.shape], "grid": (64, 1, 1), "template": None}
    assert mx.array_equal(run(cuda(core), **arguments)[0], 2 * x)


def test_a_kernel_is_exported_without_metal(tmp_path: Path) -> None:
    """Exporting only records the kernel, on any machine; a stream of the CPU is refused there."""
    kernel = metal(core)
    path = str(tmp_path / "kernel.mlxfn")
    for stream in (None, mx.gpu):
        mx.export_function(path, lambda x, s=stream: run(kernel, inputs=[x], stream=s), mx.zeros(8))
        assert Path(path).stat().st_size > 0
    with pytest.raises(ValueError, match="Only supports the GPU"):
        mx.export_function(path, lambda x: run(kernel, inputs=[x], stream=mx.cpu), mx.zeros(8))


def test_signatures() -> None:
    names = inspect.signature(core.fast.metal_kernel).parameters
    assert list(names) == [
        "name", "input_names", "output_names", "source", "header", "ensure_row_contiguous",
        "atomic_outputs", "compile_options",
    ]  # fmt: skip
    names = inspect.signature(core.fast.cuda_kernel).parameters
    assert list(names)[-3:] == ["header", "ensure_row_contiguous", "shared_memory"]
    names = inspect.signature(core.fast.precompiled_cuda_kernel).parameters
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in names.values())


def test_nothing_stays() -> None:
    def one_round() -> None:
        for options in OPTIONS:
            kernel = metal(core, **options)
            for changed in CALLED.values():
                outcome(lambda k=kernel, c=changed: run(k, **c))
        for build in BUILT.values():
            outcome(lambda b=build: b(core))

    repeat(one_round, 20)
