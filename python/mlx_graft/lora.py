"""Low-rank adapters."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_graft._core import Model

__all__ = ["apply_lora"]


def apply_lora(
    model: Model,
    rank: int = 8,
    scale: float = 20.0,
    dropout: float = 0.0,
    keys: Sequence[str] | None = None,
    num_layers: int = 16,
) -> None:
    """Freezes a model and adds low-rank adapters to it: mlx-lm's `linear_to_lora_layers`.

    The random start comes from `mx.random`, so that `mx.random.seed` decides it, and the same seed
    gives the adapters of mlx-lm.

    Args:
        model: The model, which is changed in place.
        rank: The rank of the update.
        scale: The factor of the update.
        dropout: The probability that an input of the update is zeroed in training.
        keys: Names of layers in a block, such as `self_attn.q_proj`; all linear ones if `None`.
        num_layers: How many blocks, counted from the last; -1 for all.

    Raises:
        ValueError: More layers than there are, a key that matches none, or adapters already there.
    """
    names = None if keys is None else list(keys)
    model.apply_lora(rank, scale, dropout, names, num_layers)
