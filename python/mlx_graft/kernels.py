"""Operations written in Rust that enter MLX's graph as its own do."""

from mlx_graft._core import matmul

__all__ = ["matmul"]
