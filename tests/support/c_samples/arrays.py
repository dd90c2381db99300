"""Arrays: made of every kind of host data, described, and read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from support.c_frame import Frame
from support.c_samples.sample import SAMPLES, Sample, X, against

# The functions that are named after a dtype, the dtype, and a number.
ELEMENTS: dict[str, tuple[mx.Dtype, Any]] = {
    "bool": (mx.bool_, True),
    "uint8": (mx.uint8, 200),
    "uint16": (mx.uint16, 60_000),
    "uint32": (mx.uint32, 4_000_000_000),
    "uint64": (mx.uint64, 2**62 + 1),
    "int8": (mx.int8, -100),
    "int16": (mx.int16, -30_000),
    "int32": (mx.int32, -2_000_000_000),
    "int64": (mx.int64, -(2**62)),
    "float32": (mx.float32, -0.375),
    "float64": (mx.float64, 1e-300),
}


def elements(name: str, dtype: mx.Dtype, value: Any) -> Callable[[Frame], Any]:
    """Reads an array of one element through the functions of its dtype."""

    def run(f: Frame) -> Any:
        with mx.stream(mx.cpu):
            array = f.array(mx.full((2, 1), mx.array(value, dtype)))
        f.do("mlx_array_eval", array)
        first = f.op("mlx_slice", array, f.ints(0, 0), 2, f.ints(1, 1), 2, f.ints(1, 1), 2)
        data = getattr(f.lib, f"mlx_array_data_{name}")(array)
        kind = f.ffi.typeof(data).item.cname
        plain = {"_Bool": "bool"}.get(kind, kind)
        return [data[0], data[1], f.get(plain, f"mlx_array_item_{name}", first)]

    run.__name__ = f"{name}_elements"
    run.__module__ = __name__
    return run


for name, (dtype, value) in ELEMENTS.items():
    SAMPLES.append(Sample(elements(name, dtype, value), [value] * 3))


@against([3 - 4j, 3 - 4j, 0j])
def complex_elements(f: Frame) -> Any:
    """cffi calls no function with complex parameters, but it reads complex numbers."""
    array = f.keep("mlx_array", f.lib.mlx_array_new_complex(3.0, -4.0))
    f.do("mlx_array_eval", array)
    data = f.ffi.cast("float*", f.lib.mlx_array_data_complex64(array))
    item = f.ffi.new("float[2]")
    f.do("mlx_array_item_complex64", f.ffi.cast("mlx_complex64_t*", item), array)
    f.do("mlx_array_set_complex", f.ffi.new("mlx_array*", array), 0.0, 0.0)
    return [complex(data[0], data[1]), complex(*item), 0j]


# A number alone as an array, and the same put in the place of another.
SCALARS = {
    "bool": (mx.bool_, True),
    "int": (mx.int32, -7),
    "float32": (mx.float32, 0.5),
    "float": (mx.float32, 0.5),
    "float64": (mx.float64, 0.1),
    "double": (mx.float64, 0.1),
}


def scalar(name: str, value: Any) -> Callable[[Frame], Any]:
    def run(f: Frame) -> Any:
        made = f.keep("mlx_array", getattr(f.lib, f"mlx_array_new_{name}")(value))
        replaced = f.out("mlx_array")
        f.do(f"mlx_array_set_{name}", replaced, value)
        return [f.read(made), f.read(replaced[0])]

    run.__name__ = f"{name}_scalar"
    run.__module__ = __name__
    return run


for name, (dtype, value) in SCALARS.items():
    expected = [mx.array(value, dtype)] * 2
    SAMPLES.append(Sample(scalar(name, value), expected))


@against([mx.array([3 - 4j]).reshape(())] * 2)
def complex_scalar(f: Frame) -> Any:
    made = f.keep("mlx_array", f.lib.mlx_array_new_complex(3.0, -4.0))
    replaced = f.out("mlx_array")
    f.do("mlx_array_set_complex", replaced, 3.0, -4.0)
    return [f.read(made), f.read(replaced[0])]


@against([X] * 5)
def host_data(f: Frame) -> Any:
    """Copied, replaced, and handed over with the function that frees it, which runs once."""
    freed: list[Any] = []
    numbers = f.ffi.new("float[]", X.reshape(-1).tolist())
    shape, float32 = f.ints(2, 3), f.lib.MLX_FLOAT32
    copied = f.keep("mlx_array", f.lib.mlx_array_new_data(numbers, shape, 2, float32))
    replaced, same = f.out("mlx_array"), f.out("mlx_array")
    f.do("mlx_array_set_data", replaced, numbers, shape, 2, float32)
    f.do("mlx_array_set", same, copied)
    make = "mlx_array_new_data_managed"
    release = f.callback(make, 4, freed.append)
    managed = getattr(f.lib, make)(numbers, shape, 2, float32, release)
    make = "mlx_array_new_data_managed_payload"
    payload = f.ffi.new_handle("payload")
    release = f.callback(make, 5, freed.append)
    carrying = getattr(f.lib, make)(numbers, shape, 2, float32, payload, release)
    found = [f.read(array) for array in (copied, replaced[0], same[0], managed, carrying)]
    for array in (managed, carrying):
        f.do("mlx_array_free", array)
    assert freed == [numbers, payload]
    return found


def description(m: Any, _: Any) -> Any:
    view = m.transpose(X)
    return [view.shape, view.size, view.nbytes, view.itemsize, view.ndim, view.dtype, str(view)]


@against(description)
def described(f: Frame) -> Any:
    view = f.op("mlx_transpose", X)
    f.do("mlx_array_eval", view)
    shape, strides = f.lib.mlx_array_shape(view), f.lib.mlx_array_strides(view)
    assert [strides[axis] for axis in range(2)] == [1, 3]
    assert f.lib.mlx_array_dim(view, 0) == 3
    layout = {
        name: f.get("bool", f"_mlx_array_is_{name}", view)
        for name in ("contiguous", "row_contiguous", "col_contiguous")
    }
    assert layout == {"contiguous": True, "row_contiguous": False, "col_contiguous": True}
    numbers = (f.lib.mlx_array_size, f.lib.mlx_array_nbytes, f.lib.mlx_array_itemsize)
    return [
        [shape[axis] for axis in range(2)],
        *(number(view) for number in numbers),
        f.lib.mlx_array_ndim(view),
        f.lib.mlx_array_dtype(view),
        f.text("mlx_array_tostring", view),
    ]


@against([4, 2, 1, 8])
def sizes_of_dtypes(f: Frame) -> Any:
    kinds = (f.lib.MLX_FLOAT32, f.lib.MLX_BFLOAT16, f.lib.MLX_BOOL, f.lib.MLX_COMPLEX64)
    return [f.lib.mlx_dtype_size(kind) for kind in kinds]


@against([False, True, True, False])
def known_and_scheduled(f: Frame) -> Any:
    lazy = f.op("mlx_exp", X)
    before = f.get("bool", "graft_array_is_scheduled", lazy)
    assert f.lib.graft_array_data(lazy) == f.ffi.NULL
    f.do("mlx_array_eval", lazy)
    assert f.lib.graft_array_data(lazy) == f.lib.mlx_array_data_float32(lazy)
    same = f.out("mlx_array")
    f.do("mlx_array_set", same, lazy)
    first, second = (f.get("uintptr_t", "graft_array_id", array) for array in (lazy, same[0]))
    return [
        before,
        f.get("bool", "graft_array_is_scheduled", lazy),
        first == second,
        f.get("bool", "graft_array_is_tracer", lazy),
    ]


@against(lambda m, _: str(m.divide(X, 3.0)))
def printed(f: Frame) -> Any:
    """With another precision and back, as printing is the whole process's."""
    default = f.get("int", "graft_get_print_precision")
    array = f.op("mlx_divide", X, mx.array(3.0))
    f.do("graft_set_print_precision", 2)
    short = f.text("mlx_array_tostring", array)
    f.do("graft_set_print_precision", default)
    with mx.printoptions(precision=2):
        assert short == str(mx.divide(X, 3.0))
    return f.text("mlx_array_tostring", array)
