"""Fourier transforms, named as in `mlx.core.fft`."""

from mlx_graft._core import core as _core

globals().update({name: getattr(_core.fft, name) for name in _core.fft.__all__})
__all__ = [*_core.fft.__all__]
