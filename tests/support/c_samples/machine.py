"""Devices, streams, memory, errors, and what the machine offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_graft._runtime import MLX_VERSION
from support.c_frame import Frame
from support.c_samples.sample import X, against


def cpu(f: Frame) -> Any:
    return f.keep("mlx_device", f.lib.mlx_device_new_type(f.lib.MLX_CPU, 0))


@against(
    lambda m, _: [
        str(m.default_device()),
        m.is_available(m.default_device()),
        str(m.Device(m.cpu, 0)),
        m.device_count(m.cpu),
        m.device_count(m.gpu),
        m.default_device() == m.Device(m.cpu, 0),
    ]
)
def devices(f: Frame) -> Any:
    device, default = cpu(f), f.out("mlx_device")
    f.do("mlx_get_default_device", default)
    copy = f.keep("mlx_device", f.lib.mlx_device_new())
    pointer = f.ffi.new("mlx_device*", copy)
    f.do("mlx_device_set", pointer, device)
    assert f.lib.mlx_device_equal(pointer[0], device)
    assert f.get("int", "mlx_device_get_index", device) == 0
    assert f.get("mlx_device_type", "mlx_device_get_type", device) == f.lib.MLX_CPU
    f.do("mlx_set_default_device", device)
    f.do("mlx_set_default_device", default[0])
    return [
        f.text("mlx_device_tostring", default[0]),
        f.get("bool", "mlx_device_is_available", default[0]),
        f.text("mlx_device_tostring", device),
        f.get("int", "mlx_device_count", f.lib.MLX_CPU),
        f.get("int", "mlx_device_count", f.lib.MLX_GPU),
        f.lib.mlx_device_equal(default[0], device),
    ]


@against(lambda m, _: m.device_info(m.cpu))
def device_info(f: Frame) -> Any:
    kind = "mlx_device_info"
    info = f.get(kind, f"{kind}_get", cpu(f))
    found: dict[str, str | int] = {}
    for key in f.all_texts(f.get("mlx_vector_string", f"{kind}_get_keys", info)):
        assert f.get("bool", f"{kind}_has_key", info, key)
        if f.get("bool", f"{kind}_is_string", info, key):
            found[key] = f.borrowed(f"{kind}_get_string", info, key)
            assert f.lib.mlx_device_info_get_size(f.ffi.new("size_t*"), info, f.argument(key))
        else:
            found[key] = f.get("size_t", f"{kind}_get_size", info, key)
    return found


def described(m: Any, _: Path) -> Any:
    stream = m.default_stream(m.cpu)
    return [str(stream), str(stream.device), m.exp(X, stream=m.cpu)]


@against(described)
def streams(f: Frame) -> Any:
    default = f.get("mlx_stream", "mlx_get_default_stream", cpu(f))
    same = f.out("mlx_stream")
    f.do("mlx_stream_set", same, default)
    assert f.lib.mlx_stream_equal(same[0], f.stream)
    f.do("mlx_set_default_stream", same[0])
    device = f.get("mlx_device", "mlx_stream_get_device", default)
    index = f.get("int", "mlx_stream_get_index", default)
    name = f.text("mlx_stream_tostring", default)
    assert name.endswith(f", {index})")
    result = f.get("mlx_array", "mlx_exp", X, default)
    f.do("mlx_synchronize", default)
    f.do("mlx_synchronize_default")
    return [name, f.text("mlx_device_tostring", device), f.read(result)]


@against(lambda m, _: [m.exp(X)] * 3)
def new_streams(f: Frame) -> Any:
    found, device = [], cpu(f)
    for make in (f.lib.mlx_stream_new_device, f.lib.mlx_stream_new_thread_unsafe):
        stream = f.keep("mlx_stream", make(device))
        found.append(f.read(f.get("mlx_array", "mlx_exp", X, stream)))
    kind = "mlx_stream_thread_local"
    local = f.keep(kind, f.lib.mlx_stream_thread_local_new(device))
    copy = f.ffi.new(f"{kind}*", f.keep(kind, f.lib.mlx_stream_thread_local_new(device)))
    f.do(f"{kind}_set", copy, local)
    stream = f.get("mlx_stream", "mlx_stream_from_thread_local", copy[0])
    result = f.get("mlx_array", "mlx_exp", X, stream)
    f.do("mlx_array_eval", result)
    f.do("mlx_synchronize_thread_local", local)
    found.append(f.read(result))
    known = f.get("mlx_vector_stream", "mlx_get_streams")
    assert f.lib.mlx_vector_stream_size(known) >= 3
    return found


@against(lambda m, _: m.exp(X))
def lost_tasks(f: Frame) -> Any:
    result = f.get("mlx_array", "mlx_exp", X, f.stream)
    f.do("graft_uncount_lost_tasks")
    return f.read(result)


@against(lambda m, _: str(m.default_stream(m.default_device())))
def default_stream(f: Frame) -> Any:
    return f.text("mlx_stream_tostring", f.get("mlx_stream", "graft_get_default_stream"))


@against(
    lambda m, _: [
        m.get_active_memory(),
        m.set_memory_limit(m.set_memory_limit(2**33)),
        m.set_cache_limit(m.set_cache_limit(2**20)),
    ]
)
def memory(f: Frame) -> Any:
    f.do("mlx_clear_cache")
    assert f.get("size_t", "mlx_get_cache_memory") == 0
    f.do("mlx_reset_peak_memory")
    assert f.get("size_t", "mlx_get_peak_memory") >= 0
    found = [f.get("size_t", "mlx_get_active_memory")]
    for limit, name in ((2**33, "memory"), (2**20, "cache")):
        before = f.get("size_t", f"mlx_set_{name}_limit", limit)
        found.append(f.get("size_t", f"mlx_set_{name}_limit", before))
    assert f.get("size_t", "mlx_get_memory_limit") > 0
    return found


@against(lambda m, _: m.set_wired_limit(0))
def wired_limit(f: Frame) -> Any:
    return f.get("size_t", "mlx_set_wired_limit", 0)


@against(lambda m, _: [m.metal.is_available(), m.cuda.is_available(), MLX_VERSION])
def backends(f: Frame) -> Any:
    available = [f.get("bool", f"mlx_{name}_is_available") for name in ("metal", "cuda")]
    return [*available, f.text("mlx_version")]


def capture(m: Any, folder: Path) -> None:
    m.metal.start_capture(str(folder / "missing" / "python.gputrace"))


@against(capture, fails=True)
def metal_capture(f: Frame) -> Any:
    """Into a folder that does not exist, so that it fails with a GPU too."""
    f.do("mlx_metal_start_capture", f.folder / "missing" / "c.gputrace")


@against(["planned at file.c:7", "back"])
def errors(f: Frame) -> Any:
    """A handler in the place of that of the library, which is put back."""
    found: list[str] = []
    kind = "void(const char*, void*)"
    handler = f.ffi.callback(kind, lambda text, _: found.append(f.string(text)))
    f.lib.mlx_set_error_handler(handler, f.ffi.NULL, f.ffi.NULL)
    f.lib._mlx_error(f.text_in("file.c"), 7, f.text_in("%s"), f.text_in("planned"))
    f.lib.graft_error_install()
    f.lib._mlx_error(f.text_in("file.c"), 7, f.text_in("%s"), f.text_in("back"))
    text = f.string(f.lib.graft_error_last_message())
    f.lib.graft_error_clear()
    assert f.lib.graft_error_last_kind() == f.lib.GRAFT_ERROR_NONE
    f.lib.graft_error_set(f.lib.GRAFT_ERROR_OUT_OF_RANGE, b"from a callback")
    assert f.lib.graft_error_last_kind() == f.lib.GRAFT_ERROR_OUT_OF_RANGE
    assert f.string(f.lib.graft_error_last_message()) == "from a callback"
    f.lib.graft_error_clear()
    return [*found, text.split(" at ")[0]]


def seeded(m: Any, _: Path) -> Any:
    m.random.seed(7)
    first, second = m.random.split(m.random.key(11))
    return [m.random.normal((3,), key=first), m.random.normal((3,), key=second)]


@against(seeded)
def random_keys(f: Frame) -> Any:
    f.do("mlx_random_seed", 7)
    key = f.get("mlx_array", "mlx_random_key", 11)
    first, second = f.out("mlx_array"), f.out("mlx_array")
    f.do("mlx_random_split", first, second, key, f.stream)
    return [
        f.read(f.op("mlx_random_normal", f.ints(3), 1, f.lib.MLX_FLOAT32, 0.0, 1.0, part[0]))
        for part in (first, second)
    ]


@against(lambda m, _: m.einsum_path("ab,bc,cd->ad", X, X.T, X)[0])
def einsum_path(f: Frame) -> Any:
    positions, counts = f.out("mlx_vector_int"), f.out("mlx_vector_int")
    summary = f.out("mlx_string")
    operands = f.arrays(X, mx.contiguous(X.T), X)
    f.do("graft_einsum_path", positions, counts, summary, "ab,bc,cd->ad", operands)

    def numbers(vector: Any) -> list[int]:
        size = f.lib.mlx_vector_int_size(vector)
        return [f.get("int", "mlx_vector_int_get", vector, i) for i in range(size)]

    remaining = iter(numbers(positions[0]))
    return [[next(remaining) for _ in range(count)] for count in numbers(counts[0])]
