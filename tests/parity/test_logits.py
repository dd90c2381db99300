"""The logits of every model family equal mlx-lm's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft as mg
from support import peer
from support.checkpoints import FAMILIES

TOKENS = [[5, 17, 280, 33, 96, 4, 250, 61, 12, 8, 199, 300], list(range(30, 42))]


def both(folder: Path) -> tuple[mx.array, mx.array]:
    tokens = mx.array(TOKENS, dtype=mx.int32)
    model, _ = mg.load(folder)
    return model(tokens), peer.load(folder)(tokens)


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_mlx_lm(family: str, bits: int | None, checkpoint) -> None:
    ours, theirs = both(checkpoint(family, bits=bits))
    assert ours.shape == theirs.shape == (2, 12, 320)
    assert ours.dtype == theirs.dtype == mx.float32
    assert mx.abs(ours - theirs).max().item() <= 1e-4


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
def test_other_affine_widths(bits: int, checkpoint) -> None:
    ours, theirs = both(checkpoint("llama", bits=bits))
    assert mx.abs(ours - theirs).max().item() <= 1e-4


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
def test_half_precision(dtype: mx.Dtype, bits: int | None, checkpoint) -> None:
    folder = checkpoint("qwen3", bits=bits, dtype=dtype)
    ours, theirs = both(folder)
    assert ours.dtype == theirs.dtype == dtype
    # Both round each layer's result to the type, in their own order of summation; the judge is
    # the same model computed in float32. MLX's quantized products on a CPU sum in halves.
    judge = peer.load(folder)
    judge.set_dtype(mx.float32)
    exact = judge(mx.array(TOKENS, dtype=mx.int32))

    def error(logits: mx.array) -> float:
        return mx.abs(logits.astype(mx.float32) - exact).max().item()

    rounding = {mx.float16: 2**-10, mx.bfloat16: 2**-7}[dtype]
    assert error(ours) <= max(error(theirs), 4 * rounding * mx.abs(exact).max().item())


def test_sharded_weights_are_the_same_model(checkpoint) -> None:
    tokens = mx.array(TOKENS, dtype=mx.int32)
    whole, _ = mg.load(checkpoint("llama"))
    sharded, _ = mg.load(checkpoint("llama", shards=3))
    np.testing.assert_array_equal(np.array(whole(tokens)), np.array(sharded(tokens)))


def test_position_beyond_the_original_context(checkpoint) -> None:
    """Llama 3 scales its rotary frequencies: long sequences are where an error shows."""
    folder = checkpoint("llama3")
    tokens = mx.array(np.random.default_rng(2).integers(3, 320, (1, 300)), dtype=mx.int32)
    model, _ = mg.load(folder)
    assert mx.abs(model(tokens) - peer.load(folder)(tokens)).max().item() <= 1e-4


def test_a_scaling_of_both_names(checkpoint, tmp_path) -> None:
    """Files have `type`, `rope_type` or both, and mlx-lm takes the first."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_scaling"] = {"rope_type": "default", "type": "linear", "factor": 3.0}
    path.write_text(json.dumps(config))
    ours, theirs = both(folder)
    assert mx.abs(ours - theirs).max().item() <= 1e-4
    assert mx.abs(ours - both(checkpoint("llama"))[0]).max().item() > 1e-2


def test_parameters_are_the_files_tensors(checkpoint) -> None:
    folder = checkpoint("qwen2")
    model, _ = mg.load(folder)
    ours = peer.flat(model.parameters())
    theirs = peer.flat(peer.load(folder).parameters())
    assert sorted(ours) == sorted(theirs)
    for name, value in ours.items():
        assert isinstance(value, mx.array)
        assert mx.array_equal(value, theirs[name]), name


def test_model_describes_itself(checkpoint) -> None:
    model, _ = mg.load(checkpoint("smollm"))
    assert model.model_type == "llama"
    assert len(model.layers) == 3
    assert model.config["hidden_size"] == 64
