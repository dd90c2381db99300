"""Linear algebra, named as in `mlx.core.linalg`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.linalg, name) for name in _core.linalg.__all__})
__all__ = [*_core.linalg.__all__]
