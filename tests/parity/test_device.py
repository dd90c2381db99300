"""Devices: answers and errors as in `mlx.core`, which gives and takes the objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import mlx.core as mx
import pytest

from mlx_graft import core
from support.outcome import outcome

NO_GPU = not mx.is_available(mx.gpu)
ELSEWHERE = mx.Device(mx.cpu, 3)

CALLS: dict[str, Callable[[ModuleType], object]] = {
    "default": lambda m: m.default_device(),
    "cpu is there": lambda m: m.is_available(mx.cpu),
    "gpu is there": lambda m: m.is_available(mx.gpu),
    "a device is there": lambda m: m.is_available(mx.Device(mx.cpu)),
    "the fourth cpu is there": lambda m: m.is_available(ELSEWHERE),
    "is no device there": lambda m: m.is_available("cpu"),
    "cpus": lambda m: m.device_count(mx.cpu),
    "gpus": lambda m: m.device_count(mx.gpu),
    "count of a device": lambda m: m.device_count(mx.Device(mx.cpu)),
    "info": lambda m: m.device_info(),
    "info of none": lambda m: m.device_info(None),
    "info of the cpu": lambda m: m.device_info(mx.cpu),
    "info of the gpu": lambda m: m.device_info(mx.gpu),
    "info by name": lambda m: m.device_info(d=mx.Device(mx.cpu)),
    "info of a number": lambda m: m.device_info(0),
    "info of a large number": lambda m: m.device_info(2),
    "count of a number": lambda m: m.device_count(0),
    "set to the cpu": lambda m: (m.set_default_device(mx.cpu), m.default_device()),
    "set to a device": lambda m: m.set_default_device(device=mx.Device(mx.cpu)),
    "set to the gpu": lambda m: m.set_default_device(mx.gpu),
    "set to nothing": lambda m: m.set_default_device(None),
}


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    device = mx.default_device()
    yield
    mx.set_default_device(device)


@pytest.mark.parametrize("name", CALLS)
def test_as_mlx(name: str) -> None:
    ours, theirs = outcome(CALLS[name], core), outcome(CALLS[name], mx)
    assert ours == theirs
    assert repr(ours) == repr(theirs)
    assert type(ours) is type(theirs)


def test_devices_are_those_of_mlx() -> None:
    assert type(core.default_device()) is mx.Device
    core.set_default_device(mx.cpu)
    assert mx.default_device() == mx.cpu


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_the_error_names_what_failed() -> None:
    with pytest.raises(ValueError, match=r"\[set_default_device\].*gpu"):
        core.set_default_device(mx.gpu)


@pytest.mark.parametrize("dtype", [getattr(mx, d) for d in (
    "bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
    "float32", "float64", "bfloat16", "complex64")], ids=str)  # fmt: skip
def test_dtypes_cross(dtype: mx.Dtype) -> None:
    stream = mx.cpu if dtype == mx.float64 else None
    assert core.zeros((2,), dtype, stream=stream).dtype == dtype


@pytest.mark.parametrize("wrong", ["float32", 3, mx.array(1.0), mx.floating])
def test_what_is_no_dtype_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"mlx\.core\.Dtype"):
        core.zeros((2,), wrong)  # type: ignore[arg-type]


def test_metal_and_cuda(capfd: pytest.CaptureFixture[str]) -> None:
    assert core.metal.is_available() == mx.metal.is_available()
    assert core.cuda.is_available() == mx.cuda.is_available()
    assert core.metal.device_info() == mx.metal.device_info()
    if not mx.metal.is_available():
        assert core.metal.start_capture("x.gputrace") is mx.metal.start_capture("x.gputrace")
        assert core.metal.stop_capture() is mx.metal.stop_capture()
    assert "mx.metal.device_info is deprecated" in capfd.readouterr().err


FORMER_NAMES: dict[str, tuple[int, ...]] = {
    "get_active_memory": (), "get_peak_memory": (), "get_cache_memory": (),
    "reset_peak_memory": (), "clear_cache": (), "set_memory_limit": (1 << 40,),
    "set_cache_limit": (1 << 40,), "set_wired_limit": (0,),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMER_NAMES)
def test_former_names_say_so_once(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Theirs prints to the error stream of C, once, and so does ours."""
    arguments = FORMER_NAMES[name]
    first = getattr(mx.metal, name)(*arguments)
    theirs = capfd.readouterr().err
    for _ in range(2):
        second = getattr(core.metal, name)(*arguments)
        assert type(second) is type(first)
    if name.startswith("set_"):
        assert second == arguments[0]
        getattr(mx, name)(first)
    ours = capfd.readouterr().err
    assert ours.strip() == theirs.strip()
    assert ours.count("deprecated") == 1
