"""Work on a prompt of 512 tokens, and greedy generation of 128 tokens after it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from contestants import USES_BLAS, Contestant, accelerated, ours, theirs, with_openblas
from models import GGUF_TYPES, Model

from mlx_graft.bench import contest

ROUNDS = 9


def contestants(model: Model, quick: bool) -> list[Contestant]:
    """Returns who takes part with a model; the slow ones take few turns.

    If quick, those who can keep up take few, and only those who are in a target.
    """
    folder = model.folder
    # Quantized weights take MLX minutes for a prompt.
    slow: dict[str, Any] = {"warmup": 0, "turns": 1 if model.form == "4-bit" else 2}
    pace: dict[str, Any] = {"warmup": 1, "turns": 2 if quick else ROUNDS}
    found = []
    if not quick:
        found.append(ours("mlx_lm_generate.py", folder, name="mlx-lm", **slow))
    if not quick and model.form in USES_BLAS:
        openblas = ours("mlx_lm_generate.py", folder, name="mlx-lm, OpenBLAS", **pace)
        found.append(with_openblas(openblas))
    found.append(accelerated("mlx_lm_generate.py", folder, **pace))
    if not quick and model.form != "4-bit":
        dtype = "float32" if model.form == "fp32" else "bfloat16"
        found.append(theirs("PyTorch", "torch_generate.py", folder, dtype, **pace))
    found.append(theirs("llama.cpp", "llama_cpp_generate.py", model.gguf, **pace))
    found.append(ours("graft_generate.py", folder, **pace))
    memory = ours("bandwidth.py", model.weight_bytes, name="memory", **pace)
    # It has a thread per core; NumPy's own would only get in their way.
    memory.environment["OPENBLAS_NUM_THREADS"] = "1"
    return [*found, memory]


def measure(size: str, form: str, quick: bool) -> dict[str, Any]:
    """Measures one model in one format."""
    model = Model(size, form).write()
    try:
        model.write_gguf()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"  no GGUF for llama.cpp: {error}")
    results = contest.run(contestants(model, quick))
    bandwidth = next(r for r in results if r.name == "memory").median("bandwidth")
    limit = bandwidth / model.weight_bytes
    print(f"  memory {bandwidth / 1e9:.1f} GB/s, so at most {limit:.0f} tokens/s")
    for result in results:
        if result.turns and result.name != "memory":
            speed = result.median("generation")
            print(
                f"  {result.name:26} prompt {result.median('prompt'):7.0f} tok/s   generation "
                f"{speed:6.1f} tok/s, {100 * speed / limit:3.0f} %"
            )
    return {
        "size": size,
        "form": form,
        "weight_bytes": model.weight_bytes,
        "contestants": [asdict(result) for result in results],
    }


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {f"100M-{form}": partial(measure, "100M", form, quick) for form in GGUF_TYPES}
