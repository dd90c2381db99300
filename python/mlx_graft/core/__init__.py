"""Operations on `mlx.core.array`, run by Rust: named, called and typed as in `mlx.core`.

They add nodes to the same lazy graph, so `mx.grad`, `mx.compile` and `mx.vmap` trace through them.
"""

from mlx_graft._core import core as _functions

globals().update({name: getattr(_functions, name) for name in _functions.__all__})

# After the functions: these modules stand for the extension's submodules of the same names.
from mlx_graft.core import fast as fast  # noqa: E402
from mlx_graft.core import random as random  # noqa: E402

__all__ = [*_functions.__all__]
