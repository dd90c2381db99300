from typing import Any, Protocol

from mlx.core import Dtype

class _CustomKernel(Protocol):
    """A kernel for the GPU."""

    def __call__(
        self,
        *,
        inputs: Sequence[_Scalar | array],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, bool | int | Dtype]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: _StreamOrDevice = None,
    ) -> list[array]: ...

def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: dict[str, Any] | None = None,
) -> _CustomKernel:
    """A kernel for Metal from the body of its function. It is built once and called often.

    Raises: `ValueError` if there is no output; `RuntimeError` without Metal, when it is called.
    """

def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    shared_memory: int = 0,
) -> _CustomKernel:
    """A kernel for CUDA from the body of its function, called as a `metal_kernel` is.

    Raises: `RuntimeError` without CUDA.
    """

def precompiled_cuda_kernel(
    *,
    name: str,
    compiled_source: bytes,
    inputs: Sequence[_Scalar | array],
    output_shapes: Sequence[Sequence[int]],
    output_dtypes: Sequence[Dtype],
    scalars: Sequence[bool | int | float],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    shared_memory: int = 0,
    init_value: float | None = None,
    ensure_row_contiguous: bool = False,
    stream: _StreamOrDevice = None,
) -> list[array]:
    """Runs a CUDA kernel that was compiled to PTX or cubin: its function takes the inputs, the
    outputs and the scalars in this order.

    Raises: `RuntimeError` without CUDA.
    """
