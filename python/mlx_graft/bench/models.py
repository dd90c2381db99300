"""Models of random weights from a fixed seed, as Hugging Face folders, and adapters for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
LARGE = {
    **SMALL, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 16384,
}  # fmt: skip
CONFIGS = {"5M": SMALL, "100M": LARGE}
DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "4-bit": mx.bfloat16}
GROUP_SIZE = 64
RANK = 8
SCALE = 20.0
KEYS = ("self_attn.q_proj", "self_attn.v_proj")
END = "<|endoftext|>"


def write_random_weights(folder: Path, seed: int, config: dict[str, Any]) -> int:
    """Writes the config and weights drawn from the seed; returns the number of parameters.

    As in GPT-2, what is added to the residual stream starts smaller. The standard deviation is
    three times GPT-2's, as the model is that much narrower.
    """
    mx.random.seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    queries = config["num_attention_heads"] * head_dim
    keys = config["num_key_value_heads"] * head_dim
    std = 0.06
    residual = std / (2 * layers) ** 0.5

    def normal(rows: int, columns: int, std: float = std) -> mx.array:
        return std * mx.random.normal((rows, columns))

    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.self_attn.q_proj.weight": normal(queries, hidden),
            f"{at}.self_attn.k_proj.weight": normal(keys, hidden),
            f"{at}.self_attn.v_proj.weight": normal(keys, hidden),
            f"{at}.self_attn.o_proj.weight": normal(hidden, queries, residual),
            f"{at}.mlp.gate_proj.weight": normal(inner, hidden),
            f"{at}.mlp.up_proj.weight": normal(inner, hidden),
            f"{at}.mlp.down_proj.weight": normal(hidden, inner, residual),
            f"{at}.input_layernorm.weight": mx.ones((hidden,)),
            f"{at}.post_attention_layernorm.weight": mx.ones((hidden,)),
        }
    weights["model.norm.weight"] = mx.ones((hidden,))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return sum(weight.size for weight in weights.values())


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


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Writes a tokenizer of made-up words, one for each token: the contestants get tokens."""
    words = {END: 0, **{f"w{i}": i for i in range(1, vocabulary)}}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 0, "content": END, "special": True, "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False,
            }
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": END},
    }  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "unk_token": END}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_model(folder: Path, size: str, form: str) -> None:
    """Writes a model of `CONFIGS` in a form of `DTYPES`, with a tokenizer."""
    config = CONFIGS[size]
    folder.mkdir(parents=True)
    write_tokenizer(folder, config["vocab_size"])
    write_random_weights(folder, 0, config)
    store(folder, form, config)


def write_adapters(model: Path, folder: Path) -> None:
    """Writes new adapters for a model, from a fixed seed: `a` is random, `b` is zero."""
    from mlx_graft._core import Model

    mx.random.seed(1)
    loaded = Model(model)
    loaded.apply_lora(RANK, SCALE, 0.0, list(KEYS), -1)
    loaded.save_adapters(folder)


if __name__ == "__main__":
    write_adapters(Path(sys.argv[1]), Path(sys.argv[2]))
