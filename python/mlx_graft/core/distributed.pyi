from collections.abc import Callable, Sequence
from typing import TypeAlias

from mlx.core import Device, DeviceType, Dtype, Stream, ThreadLocalStream, array
from mlx.core.distributed import Group as Group

_Scalar: TypeAlias = bool | int | float | complex
_StreamOrDevice: TypeAlias = Stream | ThreadLocalStream | Device | DeviceType | None

def is_available(backend: str = "any") -> bool:
    """Whether MLX has a way to communicate and finds what it needs; `any` for one of them."""

def init(
    strict: bool = False,
    backend: str = "any",
    *,
    all_gather_factory: Callable[[int, int], Callable[[bytes, int], bytes]] | None = None,
) -> Group:
    """The group of all processes. The first call connects them, later ones give the same group.

    The backend is `ring`, `mpi`, `nccl`, `jaccl`, or `any`, the first of them that works. Without
    `strict`, one that cannot start gives a group of this process alone. `all_gather_factory` helps
    the processes of the backend `jaccl` to find each other: it gets the rank and the number of
    processes, and returns a function that gets the bytes of this process with their number, and
    returns those of all.

    Raises: `RuntimeError` if the backend cannot start, with `strict`; `ValueError` if there is no
    such backend.
    """

def all_sum(
    x: _Scalar | array, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """The sum of the arrays of all processes."""

def all_max(
    x: _Scalar | array, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """The greatest elements of the arrays of all processes."""

def all_min(
    x: _Scalar | array, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """The least elements of the arrays of all processes."""

def all_gather(
    x: _Scalar | array, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """The arrays of all processes, one after the other along the first axis."""

def sum_scatter(
    x: _Scalar | array, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """This process's part, along the first axis, of the sum of the arrays of all processes.

    Raises: `ValueError` if the size of the group does not divide the first length; `RuntimeError`,
    when evaluated, if the backend is not `nccl`.
    """

def send(
    x: _Scalar | array, dst: int, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """Sends an array to the process of rank `dst` when the result, the array itself, is evaluated.

    Raises: `ValueError` if there is no such rank, or none but this one; `RuntimeError`, when
    evaluated, if the backend is `ring` and the rank is no neighbour.
    """

def recv(
    shape: Sequence[int],
    dtype: Dtype,
    src: int,
    *,
    group: Group | None = None,
    stream: _StreamOrDevice = None,
) -> array:
    """The array of this shape and dtype that the process of rank `src` sends.

    Raises: as `send`.
    """

def recv_like(
    x: _Scalar | array, src: int, *, group: Group | None = None, stream: _StreamOrDevice = None
) -> array:
    """As `recv`, with the shape and the dtype of an array."""
