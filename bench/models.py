"""The models of the benchmarks, written from a fixed seed into `bench/out/models`.

Each is a Hugging Face folder that every contestant loads, with the adapters that training starts
from in mlx-lm's form beside it, and for llama.cpp a GGUF of the same weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from machine import BENCH, OUT, PEERS, peers_environment

sys.path.insert(0, str(BENCH.parent / "examples"))

import stdlib_text
import tiny_llama
from mlx_graft.bench.models import CONFIGS, KEYS, RANK, SCALE, store, write_random_weights

MODELS = OUT / "models"
# llama.cpp's own 4-bit form; its scales are as many as here with groups of 32 and no biases.
GGUF_TYPES = {"fp32": "F32", "bf16": "BF16", "4-bit": "Q4_0"}


@dataclass(frozen=True)
class Model:
    """One model in one format."""

    size: str
    """A key of `CONFIGS`."""
    form: str
    """`fp32`, `bf16` or `4-bit`."""
    layers: int | None = None
    """How many layers, if not those of the config."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, without what says how weights are stored."""
        config = CONFIGS[self.size]
        return config if self.layers is None else {**config, "num_hidden_layers": self.layers}

    @property
    def folder(self) -> Path:
        """Where it lies; `write` makes it."""
        layers = "" if self.layers is None else f"-{self.layers}-layers"
        return MODELS / f"{self.size}{layers}-{self.form}"

    @property
    def gguf(self) -> Path:
        """Where llama.cpp's file lies; `write_gguf` makes it."""
        return self.folder / "model.gguf"

    @property
    def adapters(self) -> Path:
        """The folder of the adapters that training starts from."""
        return self.folder / "adapters"

    @property
    def weight_bytes(self) -> int:
        """The bytes that the generation of one token reads."""
        return (self.folder / "model.safetensors").stat().st_size

    def write(self) -> Model:
        """Writes it if it is not there, the last file last."""
        if (self.adapters / "adapters.safetensors").exists():
            return self
        write_tokenizer(self.folder, self.config["vocab_size"])
        write_random_weights(self.folder, 0, self.config)
        store(self.folder, self.form, self.config)
        write_adapters(self.adapters, self.config)
        return self

    def write_gguf(self) -> Model:
        """Writes llama.cpp's file if it is not there, from the fp32 weights."""
        if not self.gguf.exists():
            source = Model(self.size, "fp32", self.layers).write().folder
            script = BENCH / "workers/gguf_model.py"
            command = [PEERS, script, source, self.gguf, GGUF_TYPES[self.form]]
            subprocess.run(list(map(str, command)), check=True, env=peers_environment())
        return self


@cache
def documents() -> list[str]:
    """Returns text to train tokenizers on, and models."""
    return stdlib_text.collect()["base"].documents


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Writes the tokenizer; its training takes seconds, so there is one per vocabulary."""
    trained = MODELS / f"tokenizer-{vocabulary}"
    if not (trained / "tokenizer_config.json").exists():
        tiny_llama.write_tokenizer(trained, documents(), vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    for file in trained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def write_adapters(folder: Path, config: dict[str, Any]) -> None:
    """Writes adapters as mlx-lm initializes them: `a` is random, `b` is zero."""
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    heads = {"q": config["num_attention_heads"], "v": config["num_key_value_heads"]}
    mx.random.seed(1)
    weights = {}
    for layer in range(layers):
        for key in KEYS:
            stem = f"model.layers.{layer}.{key}"
            out = heads[key.removeprefix("self_attn.")[0]] * config["head_dim"]
            bound = width**-0.5
            weights[f"{stem}.lora_a"] = mx.random.uniform(-bound, bound, (width, RANK))
            weights[f"{stem}.lora_b"] = mx.zeros((RANK, out))
    folder.mkdir(exist_ok=True)
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": list(KEYS)}
    settings = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
