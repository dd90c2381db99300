"""Hub names as folders, through the cache of `huggingface_hub`."""

from __future__ import annotations

from pathlib import Path

from mlx_graft import _core

__all__ = ["resolve"]

# What mlx-lm downloads of a model.
_PATTERNS = [
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "*.txt",
    "*.jinja",
]


def resolve(path_or_hf_repo: str) -> Path:
    """Returns the folder of a model: the path itself, or the hub's snapshot.

    What is not in the cache yet, a whole repository or the files that a stopped download did not
    bring, is downloaded, with `HF_TOKEN` if it is set, unless `HF_HUB_OFFLINE` forbids it.

    Raises:
        FileNotFoundError: There is no such folder, or the repository cannot be had.
    """
    try:
        return Path(_core.resolve_model(path_or_hf_repo))
    except FileNotFoundError as missing:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE or path_or_hf_repo.count("/") != 1 or path_or_hf_repo[0] in "./~":
            raise
        try:
            return Path(snapshot_download(path_or_hf_repo, allow_patterns=_PATTERNS))
        except Exception as error:
            raise FileNotFoundError(f"{missing}\nThe download failed: {error}") from error
