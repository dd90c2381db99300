"""Operations on `mlx.core.array`, run by Rust: named, called and typed as in `mlx.core`.

They add nodes to the same lazy graph, so `mx.grad`, `mx.compile` and `mx.vmap` trace through them.
"""

from types import ModuleType

from mlx_graft._core import core as _functions
from mlx_graft.core import _shared
from mlx_graft.core import cuda as cuda
from mlx_graft.core import distributed as distributed
from mlx_graft.core import fast as fast
from mlx_graft.core import fft as fft
from mlx_graft.core import linalg as linalg
from mlx_graft.core import metal as metal
from mlx_graft.core import random as random
from mlx_graft.core._shared import *  # noqa: F403

# The modules above stand for the extension's submodules of the same names.
globals().update(
    {
        name: value
        for name, value in vars(_functions).items()
        if name in _functions.__all__ and not isinstance(value, ModuleType)
    }
)

__all__ = [*_functions.__all__, *_shared.__all__]
