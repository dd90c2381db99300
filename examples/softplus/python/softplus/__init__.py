"""Softplus as an MLX operation written in Rust."""

# First of all: the extension links to the libmlx that `mlx.core` loads.
import mlx.core  # noqa: F401  # isort: skip

from ._softplus import live_handles, softplus, softplus_and_slope

__all__ = ["live_handles", "softplus", "softplus_and_slope"]
