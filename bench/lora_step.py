"""A step of LoRA training: rank 8 on queries and values, 4 rows of 256 tokens.

All start from the same weights, adapters and tokens with the same optimizer, so their losses agree
step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from contestants import USES_BLAS, Contestant, accelerated, ours, theirs, with_openblas
from models import Model

from mlx_graft.bench import contest

STEADY = 9


def contestants(model: Model, quick: bool) -> list[Contestant]:
    """Returns who takes part with a model; the slow ones take few steps.

    If quick, those who can keep up take few, and none those who cannot or are compared with mlx-lm
    as it is.
    """
    folder = model.folder
    # Quantized weights take MLX minutes for a step.
    slow: dict[str, Any] = {"warmup": 0, "turns": 1 if model.form == "4-bit" else 2}
    pace: dict[str, Any] = (
        {"warmup": 1, "turns": 2, "slow_turns": 0} if quick else {"warmup": 2, "turns": STEADY}
    )
    found = []
    if not quick:
        found.append(ours("mlx_lm_lora.py", folder, name="mlx-lm", **slow))
    if not quick and model.form in USES_BLAS:
        openblas = ours("mlx_lm_lora.py", folder, name="mlx-lm, OpenBLAS", **pace)
        found.append(with_openblas(openblas))
    if not quick:
        found.append(accelerated("mlx_lm_lora.py", folder, **pace))
    # PyTorch has no 4-bit weights on a CPU: there it shows what bf16 costs.
    dtype = "float32" if model.form == "fp32" else "bfloat16"
    plain = model if model.form != "4-bit" else Model(model.size, "bf16").write()
    name = "PyTorch + PEFT" if model.form != "4-bit" else "PyTorch + PEFT, bf16"
    found.append(theirs(name, "torch_lora.py", plain.folder, dtype, **pace))
    found.append(ours("graft_lora.py", folder, **pace))
    if not quick:
        checkpointing = {"name": "mlx-graft, checkpointing", **pace}
        found.append(ours("graft_lora.py", folder, "--grad-checkpoint", **checkpointing))
    return found


def measure(size: str, form: str, quick: bool) -> dict[str, Any]:
    """Measures one model in one format."""
    model = Model(size, form).write()
    results = contest.run(contestants(model, quick))
    for result in results:
        if result.turns:
            print(
                f"  {result.name:26} {result.median('seconds'):8.3f} s/step   resident "
                f"{result.turns[-1]['resident'] / 1e6:6.0f} MB   loss {result.first['loss']:.5f}"
                f" -> {result.turns[-1]['loss']:.5f} in {len(result.turns)} steps"
            )
    return {"size": size, "form": form, "contestants": [asdict(result) for result in results]}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    pairs = [("100M", "fp32"), ("100M", "bf16"), ("100M", "4-bit"), ("5M", "fp32")]
    return {f"{size}-{form}": partial(measure, size, form, quick) for size, form in pairs}
