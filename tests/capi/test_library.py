"""The shared libmlxc of the package, as a C or cffi program uses it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from support.outside import MLX
from support.run import execute, succeed

cffi = pytest.importorskip("cffi")

DECLARATIONS = """
    typedef struct mlx_array_ { void* ctx; } mlx_array;
    typedef struct mlx_stream_ { void* ctx; } mlx_stream;
    mlx_array mlx_array_new(void);
    mlx_array mlx_array_new_float(float val);
    mlx_array mlx_array_new_data(const void* data, const int* shape, int dim, int dtype);
    int mlx_array_free(mlx_array arr);
    int mlx_array_eval(mlx_array arr);
    int mlx_array_item_float32(float* res, const mlx_array arr);
    mlx_stream mlx_default_cpu_stream_new(void);
    int mlx_stream_free(mlx_stream stream);
    int mlx_add(mlx_array* res, const mlx_array a, const mlx_array b, const mlx_stream s);
    int mlx_matmul(mlx_array* res, const mlx_array a, const mlx_array b, const mlx_stream s);
    int graft_error_last_kind(void);
    const char* graft_error_last_message(void);
    void graft_error_clear(void);
"""

PROGRAM = r"""
#include <stdio.h>
#include "mlx/c/mlx.h"
#include "graft/graft_error.h"

int main(void) {
  mlx_stream cpu = mlx_default_cpu_stream_new();
  mlx_array one = mlx_array_new_float(1.0f), two = mlx_array_new_float(2.0f);
  mlx_array sum = mlx_array_new();
  float value = 0;
  int failed = mlx_add(&sum, one, two, cpu) || mlx_array_item_float32(&value, sum);
  printf("%d %.1f\n", failed, value);
  failed = mlx_matmul(&sum, one, two, cpu);
  printf("%d %s\n", failed, graft_error_last_message());
  mlx_array_free(sum);
  mlx_array_free(two);
  mlx_array_free(one);
  mlx_stream_free(cpu);
  return 0;
}
"""


@pytest.fixture(scope="module")
def c() -> Any:
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    return ffi, ffi.dlopen(str(mg.capi.library()))


def test_paths() -> None:
    library, include = Path(mg.capi.library()), Path(mg.capi.include())
    assert library.is_file()
    assert (include / "mlx/c/mlx.h").is_file()
    assert (include / "graft/graft_error.h").is_file()


def test_operations(c: Any) -> None:
    ffi, lib = c
    stream = lib.mlx_default_cpu_stream_new()
    data = ffi.new("float[6]", [0, 1, 2, 3, 4, 5])
    float32 = 10
    a = lib.mlx_array_new_data(data, ffi.new("int[2]", [1, 6]), 2, float32)
    b = lib.mlx_array_new_data(data, ffi.new("int[2]", [6, 1]), 2, float32)
    result, value = ffi.new("mlx_array*"), ffi.new("float*")
    result[0] = lib.mlx_array_new()
    assert lib.mlx_matmul(result, a, b, stream) == 0
    assert lib.mlx_array_item_float32(value, result[0]) == 0
    assert value[0] == 55.0
    for array in (a, b, result[0]):
        assert lib.mlx_array_free(array) == 0
    lib.mlx_stream_free(stream)


def test_a_failed_call_returns_and_can_be_read(c: Any) -> None:
    ffi, lib = c
    stream = lib.mlx_default_cpu_stream_new()
    a, b = lib.mlx_array_new_float(1.0), lib.mlx_array_new_float(2.0)
    result = ffi.new("mlx_array*")
    result[0] = lib.mlx_array_new()
    lib.graft_error_clear()
    assert lib.mlx_matmul(result, a, b, stream) != 0
    invalid_argument = 1
    assert lib.graft_error_last_kind() == invalid_argument
    assert b"matmul" in ffi.string(lib.graft_error_last_message())
    lib.graft_error_clear()
    assert lib.graft_error_last_kind() == 0
    for array in (a, b, result[0]):
        lib.mlx_array_free(array)
    lib.mlx_stream_free(stream)


def test_its_errors_are_apart_from_those_of_the_python_module(c: Any) -> None:
    """The static copy in `_core` and the shared one have a handler each."""
    _, lib = c
    lib.graft_error_clear()
    with pytest.raises(ValueError, match="matmul"):
        mg.core.matmul(mx.array(1.0), mx.array(2.0))
    assert lib.graft_error_last_kind() == 0


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_c_program(tmp_path: Path) -> None:
    """The compiler line is the one of docs/c.md."""
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    libraries = [Path(mg.capi.library()).parent, MLX / "lib"]
    flags = [f"-L{folder}" for folder in libraries]
    flags += [f"-Wl,-rpath,{folder}" for folder in libraries]
    succeed("cc", source, f"-I{mg.capi.include()}", *flags, "-lmlxc", "-lmlx", "-o", program)
    run = execute(program, env={**os.environ, "LD_LIBRARY_PATH": str(MLX / "lib")})
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "0 3.0"
    assert second.startswith("1 ")
    assert "matmul" in second
    assert sys.platform == "darwin" or run.stderr == ""
