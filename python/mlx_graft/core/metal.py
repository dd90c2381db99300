"""Metal, named as in `mlx.core.metal`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.metal, name) for name in _core.metal.__all__})
__all__ = [*_core.metal.__all__]
