"""Fused operations of transformer models, named as in `mlx.core.fast`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.fast, name) for name in _core.fast.__all__})
__all__ = [*_core.fast.__all__]
