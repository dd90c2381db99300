"""Tiny checkpoints of random weights, in the layout of Hugging Face, one per model family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from support.text import write_tokenizer

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Family -> what its config.json says beyond BASE.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama3": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3_ROPE,
        "tie_word_embeddings": True,
    },
    "llama-linear": {
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "attention_bias": True,
        "mlp_bias": True,
    },
    # Layers so large that products with adapters are one operation on the CPU.
    "llama-wide": {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 320,
        "attention_bias": True,
    },
    "llama-sliding": {
        "model_type": "llama",
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "mistral": {"model_type": "mistral", "head_dim": 32, "sliding_window": None},
    "smollm": {"model_type": "llama", "tie_word_embeddings": True, "num_hidden_layers": 3},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {
        "model_type": "qwen3",
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "attention_bias": False,
    },
}
# The data types that a real checkpoint of each family is most often seen in are tested by logits;
# everything else is tested in float32, where the comparison is sharp.
HAS_BOS = {"llama", "llama3", "llama-linear", "llama-wide", "llama-sliding", "mistral"}


def config_of(family: str) -> dict[str, Any]:
    """Returns the config.json of a family."""
    config = {**BASE, **FAMILIES[family]}
    eos = 1 if family in HAS_BOS else 2
    return {**config, "eos_token_id": eos, "torch_dtype": "float32"}


def random_weights(family: str, seed: int = 0) -> dict[str, mx.array]:
    """Returns float32 weights that make lively logits, the same for the same seed."""
    config = config_of(family)
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    weights: dict[str, mx.array] = {}

    def normal(name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        weights[name] = mx.array(rng.normal(mean, std, shape).astype(np.float32))

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> None:
        normal(f"{name}.weight", rows, columns, std=columns**-0.5)
        if bias:
            normal(f"{name}.bias", rows, std=0.1)

    normal("model.embed_tokens.weight", config["vocab_size"], hidden, std=0.1)
    kind = config["model_type"]
    attention_bias = config.get("attention_bias", False)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            bias = kind == "qwen2" or attention_bias
            linear(f"{at}.self_attn.{name}_proj", width * head_dim, hidden, bias=bias)
        linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, bias=attention_bias)
        if kind == "qwen3":
            normal(f"{at}.self_attn.q_norm.weight", head_dim, std=0.1, mean=1.0)
            normal(f"{at}.self_attn.k_norm.weight", head_dim, std=0.1, mean=1.0)
        mlp_bias = config.get("mlp_bias", False)
        linear(f"{at}.mlp.gate_proj", inner, hidden, bias=mlp_bias)
        linear(f"{at}.mlp.up_proj", inner, hidden, bias=mlp_bias)
        linear(f"{at}.mlp.down_proj", hidden, inner, bias=mlp_bias)
        normal(f"{at}.input_layernorm.weight", hidden, std=0.1, mean=1.0)
        normal(f"{at}.post_attention_layernorm.weight", hidden, std=0.1, mean=1.0)
    normal("model.norm.weight", hidden, std=0.1, mean=1.0)
    if not config["tie_word_embeddings"]:
        linear("lm_head", config["vocab_size"], hidden, bias=False)
    return weights


def quantized(weights: dict[str, mx.array], group_size: int, bits: int) -> dict[str, mx.array]:
    """Quantizes every matrix as `mlx.nn.quantize` does."""
    result: dict[str, mx.array] = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            result[name] = weight
            continue
        stem = name.removesuffix(".weight")
        packed, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
        result |= {name: packed, f"{stem}.scales": scales, f"{stem}.biases": biases}
    return result


def write_checkpoint(
    folder: Path,
    family: str = "llama",
    *,
    bits: int | None = None,
    dtype: mx.Dtype = mx.float32,
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Writes a model folder: config, weights in one or more files, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(family)
    weights = random_weights(family, seed)
    weights = {name: weight.astype(dtype) for name, weight in weights.items()}
    config["torch_dtype"] = str(dtype).removeprefix("mlx.core.")
    if bits is not None:
        weights = quantized(weights, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
        config["quantization_config"] = config["quantization"]
    assert write_tokenizer(folder, bos=family in HAS_BOS) == config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        return folder
    weight_map: dict[str, str] = {}
    names = sorted(weights)
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        mx.save_safetensors(str(folder / file), part, {"format": "mlx"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder
