"""Unmodified MLX programs on the native CPU operations.

`accelerate()` puts the operations of `mlx_graft.kernels` in the place of those of `mlx.core` that
decide the speed of language models on a CPU; `python -m mlx_graft.accelerate -m mlx_lm lora …` runs
a module or a script with them. docs/accelerate.md lists every name, and what is missed.
"""

from mlx_graft.accelerate._switch import accelerate

__all__ = ["accelerate"]
