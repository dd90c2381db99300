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

MODELS = OUT / "models"
SMALL = {
    **tiny_llama.CONFIG, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
    "max_position_embeddings": 1024,
}  # fmt: skip
LARGE = {
    **SMALL, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 16384,
}  # fmt: skip
CONFIGS = {"5M": SMALL, "100M": LARGE}
DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "4-bit": mx.bfloat16}
# llama.cpp's own 4-bit form; its scales are as many as here with groups of 32 and no biases.
GGUF_TYPES = {"fp32": "F32", "bf16": "BF16", "4-bit": "Q4_0"}
GROUP_SIZE = 64
RANK = 8
SCALE = 20.0
KEYS = ("self_attn.q_proj", "self_attn.v_proj")


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
        tiny_llama.write_random_weights(self.folder, seed=0, config=self.config)
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


def store(folder: Path, form: str, config: dict[str, Any]) -> None:
    """Stores the fp32 weights of a folder in another form."""
    path = folder / "model.safetensors"
    loaded: Any = mx.load(str(path))
    dtype = DTYPES[form]
    weights: dict[str, mx.array] = {name: w.astype(dtype) for name, w in loaded.items()}
    config = {**config, "torch_dtype": str(dtype).removeprefix("mlx.core.")}
    if form == "4-bit":
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": 4}
        for name in [name for name, w in weights.items() if w.ndim == 2]:
            packed, scales, biases = mx.quantize(weights[name], group_size=GROUP_SIZE, bits=4)
            stem = name.removesuffix("weight")
            weights |= {name: packed, f"{stem}scales": scales, f"{stem}biases": biases}
    mx.eval(list(weights.values()))
    path.unlink()
    mx.save_safetensors(str(path), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))


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
