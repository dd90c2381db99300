"""Random numbers, named as in `mlx.core.random`, from the same generator."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.random, name) for name in _core.random.__all__})
__all__ = [*_core.random.__all__]
