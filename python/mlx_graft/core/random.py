"""Random numbers, named as in `mlx.core.random`.

With the same key they are the same. Without one they are drawn from `mlx.core.random.state`, which
`seed` of both modules sets.
"""

import mlx.core as _mx

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.random, name) for name in _core.random.__all__})
__all__ = [*_core.random.__all__]


def __getattr__(name: str) -> object:
    # MLX makes the state when it is first asked for, not when the module is imported.
    if name == "state":
        return _mx.random.state
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
