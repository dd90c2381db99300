"""Random numbers, named as in `mlx.core.random`.

With the same key they are the same. Without one they are drawn from a state of their own, the one
of C++ programs, which `seed` here sets; `mx.random.seed` sets that of `mlx.core` only.
"""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.random, name) for name in _core.random.__all__})
__all__ = [*_core.random.__all__]
