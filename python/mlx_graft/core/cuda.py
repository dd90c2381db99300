"""CUDA, named as in `mlx.core.cuda`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.cuda, name) for name in _core.cuda.__all__})
__all__ = [*_core.cuda.__all__]
