"""Loading of models, tokenizers and data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from mlx_graft import hub
from mlx_graft._core import Dataset, Model, Tokenizer

__all__ = ["load", "load_dataset", "load_tokenizer"]


def load(
    path_or_hf_repo: str | os.PathLike[str], adapter_path: str | os.PathLike[str] | None = None
) -> tuple[Model, Tokenizer]:
    """Loads a model and its tokenizer: `mlx_lm.load` of a path and an `adapter_path`.

    Args:
        path_or_hf_repo: A Hugging Face folder (config.json, safetensors, tokenizer.json), dense or
            quantized, or the name of a hub repository.
        adapter_path: A folder of adapters to add.

    Raises:
        FileNotFoundError: A file is missing, or the repository is not cached and offline.
        ValueError: A file holds something wrong; the message names the tensor and the shapes.
        NotImplementedError: The architecture is not supported; the message lists those that are.
    """
    folder = hub.resolve(os.fspath(path_or_hf_repo))
    model, tokenizer = Model(folder), Tokenizer(folder)
    if adapter_path is not None:
        model.load_adapters(Path(adapter_path))
    return model, tokenizer


def load_tokenizer(path_or_hf_repo: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer from a Hugging Face folder or a hub repository."""
    return Tokenizer(hub.resolve(os.fspath(path_or_hf_repo)))


@overload
def load_dataset(
    data: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    mask_prompt: bool = False,
    prompt_feature: str | None = None,
    completion_feature: str | None = None,
    text_feature: str | None = None,
    chat_feature: str | None = None,
) -> tuple[Dataset | None, Dataset | None, Dataset | None]: ...
@overload
def load_dataset(
    data: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    mask_prompt: bool = False,
    prompt_feature: str | None = None,
    completion_feature: str | None = None,
    text_feature: str | None = None,
    chat_feature: str | None = None,
) -> Dataset: ...
def load_dataset(
    data: str | os.PathLike[str] | Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    mask_prompt: bool = False,
    prompt_feature: str | None = None,
    completion_feature: str | None = None,
    text_feature: str | None = None,
    chat_feature: str | None = None,
) -> Dataset | tuple[Dataset | None, ...]:
    """Tokenizes training data.

    Args:
        data: A folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, or a list of rows. A row
            has `text`, or `prompt` and `completion`, or `messages`.
        tokenizer: The tokenizer of the model.
        mask_prompt: Whether the loss leaves out the prompt.
        prompt_feature: The key of the prompt, if it is another than `prompt`.
        completion_feature: The key of the completion, if it is another than `completion`.
        text_feature: The key of the text, if it is another than `text`.
        chat_feature: The key of the chat, if it is another than `messages`.

    Returns:
        A `Dataset` of a list of rows; of a folder the three data sets, `None` for a file that is
        not there.

    Raises:
        FileNotFoundError: The folder is missing, or has none of the files.
        ValueError: A row is wrong; the message names the file and the line, or `rows` and the
            number of the row, from 1.
        TypeError: A row of a list holds what JSON does not have.
    """
    given = {
        "mask_prompt": mask_prompt,
        "prompt_feature": prompt_feature,
        "completion_feature": completion_feature,
        "text_feature": text_feature,
        "chat_feature": chat_feature,
    }
    if not isinstance(data, str | os.PathLike):
        return Dataset.from_rows(list(data), tokenizer, given)
    folder = Path(data)
    files = [folder / f"{name}.jsonl" for name in ("train", "valid", "test")]
    if not any(file.exists() for file in files):
        raise FileNotFoundError(
            f"{folder}: no train.jsonl, valid.jsonl or test.jsonl here; wanted at least one"
        )
    return tuple(Dataset.load(file, tokenizer, given) if file.exists() else None for file in files)
