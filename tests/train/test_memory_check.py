"""Steps that fit run, however little memory is left; `tests/cli/test_bad_input.py` has another."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path

import mlx.core as mx
import pytest

from support.run import succeed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")

LIMITED = """
import resource
import mlx.core as mx
import mlx_graft as mg

def limit(more):
    for line in open("/proc/self/status"):
        if line.startswith("VmSize:"):
            size = int(line.split()[1]) * 1024 + more
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

def step(trainer, rows, width):
    tokens = mx.ones((rows, width), mx.int32)
    trainer.step(tokens, mx.full((rows,), width - 1, mx.int32)).item()
"""


def run(code: str) -> None:
    succeed(sys.executable, "-c", LIMITED + textwrap.dedent(code))


def test_what_earlier_steps_freed_is_there(checkpoint) -> None:
    """The process keeps freed memory, so that the second shape finds the system's used up."""
    run(f"""
        model, _ = mg.load({str(checkpoint("llama"))!r})
        mg.apply_lora(model, num_layers=2)
        trainer = mg.Trainer(model, mg.TrainConfig())
        for _ in range(2):
            step(trainer, 8, 512)
        # The next needs 14 MB at the least.
        limit(10 << 20)
        step(trainer, 8, 256)
    """)


def test_frozen_layers_keep_nothing(checkpoint, tmp_path) -> None:
    """Of many blocks the last is trained: the backward pass goes no further."""
    blocks = 40
    folder: Path = shutil.copytree(checkpoint("llama"), tmp_path / "deep")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    first = "model.layers.0."
    for name in [name for name in weights if name.startswith(first)]:
        for block in range(2, blocks):
            weights[f"model.layers.{block}.{name.removeprefix(first)}"] = weights[name]
    mx.eval(list(weights.values()))
    (folder / "model.safetensors").unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    run(f"""
        model, _ = mg.load({str(folder)!r})
        mg.apply_lora(model, num_layers=1)
        trainer = mg.Trainer(model, mg.TrainConfig())
        step(trainer, 1, 32)
        # All blocks would need 190 MB.
        limit(120 << 20)
        step(trainer, 8, 256)
    """)
