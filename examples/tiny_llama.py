"""A small Llama from nothing: a tokenizer trained on the text, a config, and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "vocab_size": 2048,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
END = "<|endoftext|>"
# A question is code, an answer its docstring: the shape in which the base model has seen both.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    '{{ message[\'content\'] }}"""<|endoftext|>'
    "{% else %}"
    '{{ message[\'content\'] }}\n    """'
    "{% endif %}"
    "{% endfor %}"
)


def write_tokenizer(folder: Path, texts: list[str], vocab_size: int = CONFIG["vocab_size"]) -> None:
    """Trains a byte-level BPE on the texts and writes it with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def write_random_weights(folder: Path, seed: int, config: dict[str, Any] = CONFIG) -> int:
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
