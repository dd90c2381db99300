"""Adapter files cross both ways between mlx-lm and this package."""

from __future__ import annotations

import json

import mlx.core as mx
import pytest

import mlx_graft as mg
from support import peer

TOKENS = mx.array([[5, 17, 280, 33, 96, 4, 250]], dtype=mx.int32)
# What `lora_parameters` may say, and the number of layers.
CONFIGS = {
    "default": ({}, 16),
    "rank": ({"rank": 2, "scale": 5.0}, 1),
    "keys": ({"keys": ["self_attn.q_proj", "self_attn.v_proj"]}, 2),
}


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("name", CONFIGS)
def test_theirs_load_here(name: str, bits: int | None, checkpoint, tmp_path) -> None:
    lora, num_layers = CONFIGS[name]
    folder = checkpoint("qwen3", bits=bits)
    theirs = peer.with_lora(peer.load(folder), num_layers=num_layers, **lora)
    adapters = peer.save_adapters(theirs, tmp_path / "a", num_layers=num_layers, **lora)
    ours, _ = mg.load(folder, adapter_path=adapters)
    assert mx.abs(ours(TOKENS) - theirs(TOKENS)).max().item() <= 1e-4


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("name", CONFIGS)
def test_ours_load_there(name: str, bits: int | None, checkpoint, tmp_path) -> None:
    from mlx_lm import load

    lora, num_layers = CONFIGS[name]
    folder = checkpoint("llama", bits=bits)
    ours, _ = mg.load(folder)
    mg.apply_lora(ours, num_layers=min(num_layers, 2), **lora)
    trainer = mg.Trainer(ours, mg.TrainConfig(learning_rate=1e-3))
    for tokens, lengths in peer.batches(3):
        trainer.step(tokens, lengths)
    ours.save_adapters(tmp_path / "adapters")
    base, _ = mg.load(folder)
    assert mx.abs(ours(TOKENS) - base(TOKENS)).max().item() > 1e-2, "the adapter must matter"

    theirs, _ = load(str(folder), adapter_path=str(tmp_path / "adapters"))
    assert mx.abs(ours(TOKENS) - theirs(TOKENS)).max().item() <= 1e-4


def test_adapters_start_as_mlx_lm_starts_them(checkpoint) -> None:
    """The same seed gives the same `lora_a`, drawn in the same order."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    folder = checkpoint("qwen2")
    theirs = peer.load(folder)
    theirs.freeze()
    mx.random.seed(11)
    linear_to_lora_layers(theirs, 2, {"rank": 8, "scale": 20.0, "dropout": 0.0})
    expected = peer.flat(theirs.trainable_parameters())

    ours, _ = mg.load(folder)
    mx.random.seed(11)
    mg.apply_lora(ours, rank=8, scale=20.0, num_layers=2)
    values = peer.flat(ours.trainable_parameters())
    assert sorted(values) == sorted(expected)
    for name, value in expected.items():
        assert mx.array_equal(values[name], value), name


def test_configuration_is_what_mlx_lm_reads(checkpoint, tmp_path) -> None:
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, rank=4, scale=8.0, dropout=0.1, num_layers=1, keys=["mlp.up_proj"])
    model.save_adapters(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config.keys() == {"fine_tune_type", "num_layers", "lora_parameters"}, "what is known"
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == 1
    assert config["lora_parameters"] == {
        "rank": 4,
        "scale": 8.0,
        "dropout": 0.1,
        "keys": ["mlp.up_proj"],
    }
    names = mx.load(str(tmp_path / "adapters.safetensors"))
    at = "model.layers.1.mlp.up_proj"
    assert {name: value.shape for name, value in names.items()} == {
        f"{at}.lora_a": (64, 4),
        f"{at}.lora_b": (4, 128),
    }


def test_a_layer_named_twice_is_adapted_once(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    at = "model.layers.1.mlp.up_proj"
    mg.apply_lora(model, num_layers=2, keys=["mlp.up_proj", at, at, "lm_head"])
    trained = peer.flat(model.trainable_parameters())
    layers = {"lm_head", at, "model.layers.0.mlp.up_proj"}
    assert trained.keys() == {
        f"{layer}.{part}" for layer in layers for part in ("lora_a", "lora_b")
    }


def test_a_saved_model_loads_again(checkpoint, tmp_path) -> None:
    folder = checkpoint("smollm")
    model, _ = mg.load(folder)
    model.unfreeze()
    mg.Trainer(model, mg.TrainConfig(learning_rate=1e-3)).step(*peer.batches(1)[0])
    model.save_weights(tmp_path / "saved")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (tmp_path / "saved" / name).exists():
            (tmp_path / "saved" / name).write_bytes((folder / name).read_bytes())
    again = peer.load(tmp_path / "saved")
    assert mx.abs(model(TOKENS) - again(TOKENS)).max().item() <= 1e-4


@pytest.mark.parametrize("way", ["fit", "save"])
def test_what_the_trainer_writes_loads_there(way: str, checkpoint, tmp_path) -> None:
    """The trainer's options say nothing about adapters: the model knows how they were made."""
    from mlx_lm import load

    folder = checkpoint("llama")
    ours, _ = mg.load(folder)
    mg.apply_lora(ours, rank=4, scale=10.0, num_layers=1, keys=["self_attn.q_proj"])
    adapters = tmp_path / "adapters"
    options = {"adapter_path": adapters} if way == "fit" else {}
    trainer = mg.Trainer(ours, mg.TrainConfig(learning_rate=1e-2, iters=3, batch_size=2, **options))
    trainer.fit([[5, 17, 280, 33, 96, 4, 250]] * 4)
    if way == "save":
        trainer.save(adapters)
    config = json.loads((adapters / "adapter_config.json").read_text())
    assert config["num_layers"] == 1
    parameters = {"rank": 4, "scale": 10.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    assert config["lora_parameters"] == parameters
    assert config["learning_rate"] == 1e-2, "beside them are the options of the training"
    assert not {"model", "data", "train", "test"} & config.keys(), "nobody told the trainer"

    base, _ = mg.load(folder)
    assert mx.abs(ours(TOKENS) - base(TOKENS)).max().item() > 1e-2, "the adapter must matter"
    theirs, _ = load(str(folder), adapter_path=str(adapters))
    again, _ = mg.load(folder, adapter_path=adapters)
    for other in (theirs, again):
        assert mx.abs(ours(TOKENS) - other(TOKENS)).max().item() <= 1e-4


def test_full_fine_tuning_in_python_loads_there(checkpoint, tmp_path) -> None:
    """All weights were trained, the embedding too."""
    from mlx_lm import load

    folder = checkpoint("llama")
    ours, _ = mg.load(folder)
    ours.unfreeze()
    trainer = mg.Trainer(ours, mg.TrainConfig(learning_rate=1e-3))
    for batch in peer.batches(3):
        trainer.step(*batch)
    trainer.save(tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters/adapter_config.json").read_text())
    assert (config["fine_tune_type"], config["num_layers"]) == ("full", -1)
    theirs, _ = load(str(folder), adapter_path=str(tmp_path / "adapters"))
    again, _ = mg.load(folder, adapter_path=tmp_path / "adapters")
    for other in (theirs, again):
        assert mx.abs(ours(TOKENS) - other(TOKENS)).max().item() <= 1e-4
    again.save_adapters(tmp_path / "again")
    saved = mx.load(str(tmp_path / "again/adapters.safetensors"))
    assert "model.embed_tokens.weight" in saved, "what was loaded is saved again"


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("lora", None),
        ("lora", ["self_attn.q_proj", "lm_head", "model.embed_tokens"]),
        ("full", None),
    ],
)
def test_the_number_of_trainable_parameters_is_theirs(
    kind: str, keys: list[str] | None, bits: int | None, checkpoint, data, graft, tmp_path, capsys
) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers, print_trainable_parameters

    if kind == "full" and bits:
        pytest.skip("refused")
    folder, parameters = checkpoint("llama-wide", bits=bits), {**peer.LORA, "keys": keys}
    theirs = peer.load(folder)
    theirs.freeze()
    if kind == "full":
        theirs.layers[-1].unfreeze()
    else:
        linear_to_lora_layers(theirs, 1, parameters)
    print_trainable_parameters(theirs)
    wanted = capsys.readouterr().out
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"lora_parameters": parameters}))
    run = graft(
        "train", "--train", "--model", folder, "--data", data(), "--config", config, "--iters", 0,
        "--num-layers", 1, "--fine-tune-type", kind, "--adapter-path", tmp_path / "a",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert wanted.startswith("Trainable parameters: ")
    assert wanted in run.stdout


def test_a_configuration_with_more_keys_loads_as_there(checkpoint, tmp_path) -> None:
    folder = checkpoint("qwen3")
    theirs = peer.with_lora(peer.load(folder))
    adapters = peer.save_adapters(theirs, tmp_path / "a", alpha=16, something=1)
    ours, _ = mg.load(folder, adapter_path=adapters)
    assert mx.abs(ours(TOKENS) - theirs(TOKENS)).max().item() <= 1e-4


def test_a_configuration_without_scale_is_refused_as_there(checkpoint, tmp_path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    folder = checkpoint("qwen3")
    adapters = peer.save_adapters(peer.with_lora(peer.load(folder)), tmp_path / "a")
    path = adapters / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["lora_parameters"]["scale"]
    path.write_text(json.dumps(config))
    with pytest.raises(KeyError, match="scale"):
        load_adapters(peer.load(folder), str(adapters))
    with pytest.raises(ValueError, match=r"adapter_config\.json.*lora_parameters\.scale.*missing"):
        mg.load(folder, adapter_path=adapters)


def test_a_model_with_adapters_is_not_saved_as_weights(checkpoint, tmp_path) -> None:
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=1)
    with pytest.raises(ValueError, match=r"layers\.1\..* has an adapter.*save_adapters"):
        model.save_weights(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
