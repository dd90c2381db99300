"""Several processes that compute together, named as in `mlx.core.distributed`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.distributed, name) for name in _core.distributed.__all__})
__all__ = [*_core.distributed.__all__]
