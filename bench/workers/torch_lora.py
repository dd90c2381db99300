"""Steps of PyTorch and PEFT. Usage: torch_lora.py MODEL DTYPE."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import data
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from serve import Turns
from transformers import AutoModelForCausalLM


def load(folder: Path, dtype: torch.dtype) -> PeftModel:
    """Loads a model and its adapters, which mlx-lm stores transposed."""
    settings = json.loads((folder / "adapters/adapter_config.json").read_text())
    lora = settings["lora_parameters"]
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["scale"] * lora["rank"],
        lora_dropout=lora["dropout"],
        target_modules=[key.rpartition(".")[2] for key in lora["keys"]],
        task_type="CAUSAL_LM",
    )
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = get_peft_model(base, config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in load_file(folder / "adapters/adapters.safetensors").items():
            stem, _, which = name.rpartition(".lora_")
            at = f"base_model.model.{stem}.lora_{which.upper()}.default.weight"
            parameters[at].copy_(weight.T)
    return model


def main() -> None:
    """Trains as long as turns are asked for."""
    folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
    model = load(folder, dtype).train()
    batch = torch.tensor(data.batch(data.vocabulary(folder)))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=data.LEARNING_RATE, weight_decay=data.WEIGHT_DECAY)
    turns = Turns()
    for _ in turns:
        start = time.perf_counter()
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        targets = batch[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        turns.answer(seconds=time.perf_counter() - start, loss=value)


if __name__ == "__main__":
    main()
