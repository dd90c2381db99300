"""The Python exceptions of bad input: the kind fits, the message says what, where and how."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

import mlx_graft as mg


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    return shutil.copytree(checkpoint("llama"), tmp_path / "model")


def test_no_model_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mg.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files(name: str, folder) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).suffix):
        mg.load(folder)


def test_unknown_architecture(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises((ValueError, NotImplementedError), match=r"mamba.*llama.*qwen3"):
        mg.load(folder)


def test_truncated_weights(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        mg.load(folder)


def test_shards_that_the_index_does_not_name(checkpoint, tmp_path) -> None:
    """They are left of another version; without an index nobody can tell which."""
    folder = shutil.copytree(checkpoint("llama", shards=3), tmp_path / "model")
    old = mx.load(str(checkpoint("llama", seed=1) / "model.safetensors"))
    assert isinstance(old, dict)
    mx.save_safetensors(str(folder / "model-00001-of-00001.safetensors"), old)
    tokens = mx.array([[5, 17, 280]], mx.int32)
    model, _ = mg.load(folder)
    expected, _ = mg.load(checkpoint("llama"))
    assert mx.array_equal(model(tokens), expected(tokens)).item()
    (folder / "model.safetensors.index.json").unlink()
    says = r"00001-of-00003\.safetensors: has the tensor .*00001-of-00001\.safetensors has it too"
    with pytest.raises(ValueError, match=says):
        mg.load(folder)


def test_broken_data_line(checkpoint, tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\nnot json\n')
    tokenizer = mg.load_tokenizer(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"train\.jsonl:2"):
        mg.load_dataset(tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("value", "kind"), [(float("nan"), ValueError), (float("inf"), ValueError), ({1}, TypeError)]
)
def test_a_row_that_is_no_json(value: object, kind: type[Exception], checkpoint) -> None:
    tokenizer = mg.load_tokenizer(checkpoint("llama"))
    rows = [{"text": "a"}, {"text": "b", "score": value}]
    with pytest.raises(kind, match=r"^rows:2: .*JSON"):
        mg.load_dataset(rows, tokenizer)
    with pytest.raises(ValueError, match=r'^rows:2: found "b", wanted a dict'):
        mg.load_dataset([{"text": "a"}, "b"], tokenizer)


def test_an_option_that_no_data_set_has(checkpoint) -> None:
    tokenizer = mg.load_tokenizer(checkpoint("llama"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'iters'"):
        mg.load_dataset([{"text": "a"}], tokenizer, iters=5)
    with pytest.raises(ValueError, match="`iters`: unknown key; the known keys are chat_feature"):
        mg.Dataset.from_rows([{"text": "a"}], tokenizer, {"iters": 5})


def test_no_data_folder(checkpoint, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mg.load_dataset(tmp_path / "nowhere", mg.load_tokenizer(checkpoint("llama")))


def test_too_many_layers(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"5.*2"):
        mg.apply_lora(model, num_layers=5)


def test_keys_that_match_nothing(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"attention\.wq"):
        mg.apply_lora(model, keys=["attention.wq"], num_layers=2)


def test_adapter_of_another_model(checkpoint, tmp_path) -> None:
    one, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(one, num_layers=2)
    one.save_adapters(tmp_path)
    with pytest.raises(ValueError, match=r"lora_[ab].*shape"):
        mg.load(checkpoint("mistral"), adapter_path=tmp_path)


def test_adapters_that_do_not_fit_leave_the_model_as_it_was(checkpoint, tmp_path) -> None:
    one, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(one, num_layers=2)
    one.save_adapters(tmp_path / "one")
    model, _ = mg.load(checkpoint("mistral"))

    def names() -> list[list[str]]:
        trees = (model.parameters(), model.trainable_parameters())
        return [[name for name, _ in tree_flatten(tree)] for tree in trees]

    before = names()
    with pytest.raises(ValueError, match=r"lora_[ab].*shape"):
        model.load_adapters(tmp_path / "one")
    assert names() == before
    mg.apply_lora(model, num_layers=2)


def test_adapters_of_a_model_that_has_some(checkpoint, tmp_path) -> None:
    """Those that were made alike take other values; the error about others says what is wrong."""
    for name, value in (("zeros", 0.0), ("twos", 2.0)):
        model, _ = mg.load(checkpoint("llama"))
        mg.apply_lora(model, rank=4, num_layers=1, keys=["mlp.up_proj"])
        names = dict(tree_flatten(model.trainable_parameters()))
        filled = [(key, mx.full(array.shape, value)) for key, array in names.items()]
        model.update(tree_unflatten(filled))
        model.save_adapters(tmp_path / name)
    model.load_adapters(tmp_path / "zeros")
    values = dict(tree_flatten(model.trainable_parameters()))
    assert values.keys() == names.keys()
    assert all(not value.any().item() for value in values.values())
    other, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(other, rank=8, num_layers=1, keys=["mlp.up_proj"])
    says = r"mlp\.up_proj has an adapter already, made with other .*load the model again"
    with pytest.raises(ValueError, match=says) as refused:
        other.load_adapters(tmp_path / "twos")
    assert "another model" not in str(refused.value)


@pytest.mark.parametrize("lacking", ["lora_a", "lora_b", ""])
def test_an_adapter_that_lacks_tensors(lacking: str, checkpoint, tmp_path) -> None:
    """They would be random."""
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=1, keys=["mlp.up_proj"])
    model.save_adapters(tmp_path)
    path = tmp_path / "adapters.safetensors"
    tensors = {name: value for name, value in mx.load(str(path)).items() if lacking not in name}
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors)
    name = f"model.layers.1.mlp.up_proj.{lacking or 'lora_a'}"
    says = rf'adapters\.safetensors: has no tensor "{name}", wanted with shape'
    with pytest.raises(ValueError, match=says):
        mg.load(checkpoint("llama"), adapter_path=tmp_path)


def test_an_adapter_of_integers(checkpoint, tmp_path) -> None:
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=1, keys=["mlp.up_proj"])
    model.save_adapters(tmp_path)
    path = tmp_path / "adapters.safetensors"
    tensors = {name: value.astype(mx.int32) for name, value in mx.load(str(path)).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors)
    with pytest.raises(ValueError, match=r'safetensors: tensor ".*lora_a" is of int32, wanted a f'):
        mg.load(checkpoint("llama"), adapter_path=tmp_path)


@pytest.mark.parametrize("names", [[], ["model.layers.1.input_layernorm.weight"]])
def test_whole_weights_may_be_some_of_them(names: list[str], checkpoint, tmp_path) -> None:
    """The others are those of the model, as in mlx-lm; none at all is no file of weights."""
    config = {"fine_tune_type": "full", "num_layers": 2, "lora_parameters": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = {name: mx.full((64,), 2.0) for name in names}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    if not names:
        with pytest.raises(ValueError, match=r"adapters\.safetensors: has no tensor"):
            mg.load(checkpoint("llama"), adapter_path=tmp_path)
        return
    model, _ = mg.load(checkpoint("llama"), adapter_path=tmp_path)
    assert model.layers[1]["input_layernorm"]["weight"].tolist() == [2.0] * 64


def test_a_rank_that_no_array_has(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"rank: found 1000000000, wanted at most 16777215 for ml"):
        mg.apply_lora(model, rank=1_000_000_000, num_layers=1)
    mg.apply_lora(model, rank=200, num_layers=1)  # pointless, and mlx-lm takes it


def test_no_adapter_folder(checkpoint, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mg.load(checkpoint("llama"), adapter_path=tmp_path / "nowhere")


def test_offline(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"someone/not-cached.*"):
        mg.load("someone/not-cached")


def test_a_typo_in_the_training_configuration() -> None:
    with pytest.raises((TypeError, ValueError), match="learning_rat"):
        mg.TrainConfig(learning_rat=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"optimizer": "adamm"}, "adam"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": float("nan")}, "`learning_rate`: found nan, wanted a finite number"),
        ({"optimizer_config": {"adam": {"eps": float("inf")}}}, r"`optimizer_config\.adam\.eps`"),
        (
            {"lr_schedule": {"name": "x", "arguments": [1e999]}},
            r"`lr_schedule\.arguments`: found inf",
        ),
        ({"lr_schedule": {"name": "cosine", "arguments": [1.0]}}, "cosine_decay"),
    ],
)
def test_a_value_that_cannot_be(options: dict[str, object], says: str, checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=1)
    with pytest.raises(ValueError, match=says):
        mg.Trainer(model, mg.TrainConfig(**options))


def test_options_may_be_numbers_of_numpy() -> None:
    config = mg.TrainConfig(
        learning_rate=np.float32(1e-4),
        iters=np.int64(10),
        batch_size=np.array(3),
        grad_checkpoint=np.bool_(True),
        adapter_path=np.str_("a"),
        lr_schedule={"name": "step_decay", "arguments": [np.float64(1e-3), mx.array(0.5), 2]},
    )
    options = config.to_dict()
    assert options["learning_rate"] == pytest.approx(1e-4)
    assert (options["iters"], options["batch_size"], options["grad_checkpoint"]) == (10, 3, True)
    assert options["lr_schedule"]["arguments"] == [1e-3, 0.5, 2]


@pytest.mark.parametrize("value", [np.zeros(2), object(), b"a", {1}])
def test_an_option_that_is_no_number(value: object) -> None:
    with pytest.raises(TypeError, match=r"`learning_rate`: found .*, wanted a number"):
        mg.TrainConfig(learning_rate=value)
    with pytest.raises(ValueError, match="`learning_rate`: found nan, wanted a finite number"):
        mg.TrainConfig(learning_rate=np.float32("nan"))


def test_nan_loss(checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    model.update({"model": {"norm": {"weight": mx.full((64,), float("nan"))}}})
    mg.apply_lora(model, num_layers=1)
    trainer = mg.Trainer(model, mg.TrainConfig(iters=2, batch_size=2))
    rows = [tokenizer.encode("the parser returns a new list.")] * 4
    with pytest.raises(FloatingPointError, match="NaN"):
        trainer.fit(rows, [])


def test_nothing_to_train(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    model.freeze()
    with pytest.raises(ValueError, match=r"apply_lora|unfreeze"):
        mg.Trainer(model, mg.TrainConfig())


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (mx.zeros((8,), mx.int32), mx.array([8], mx.int32)),
        (mx.zeros((2, 8), mx.int32), mx.array([8, 8, 8], mx.int32)),
        (mx.zeros((2, 8), mx.float32), mx.array([8, 8], mx.int32)),
        (mx.zeros((2, 1), mx.int32), mx.array([1, 1], mx.int32)),
    ],
    ids=["one row without a batch", "lengths of another batch", "not integers", "one token"],
)
def test_batches_of_the_wrong_shape(tokens: mx.array, lengths: mx.array, checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=1)
    trainer = mg.Trainer(model, mg.TrainConfig())
    with pytest.raises(ValueError, match=r"tokens|lengths"):
        trainer.step(tokens, lengths)


def test_update_with_a_wrong_shape_or_name(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"norm.*weight"):
        model.update({"model": {"norm": {"weight": mx.zeros((3,))}}})
    with pytest.raises(ValueError, match="nothing_of_this_name"):
        model.update({"nothing_of_this_name": mx.zeros((3,))})


def test_a_path_that_names_no_layer(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=r"layers\.99.*self_attn\.q_proj, .*lm_head.*layers\.1"):
        mg.apply_lora(model, keys=["model.layers.99.self_attn.v_proj"], num_layers=2)


@pytest.mark.parametrize("num_batches", [0, -2])
def test_a_number_of_batches_that_cannot_be(num_batches: int, checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    trainer = mg.Trainer(model, mg.TrainConfig())
    with pytest.raises(ValueError, match=f"num_batches: found {num_batches}, wanted -1"):
        trainer.evaluate([[1, 2, 3]] * 4, num_batches)


def test_a_folder_that_cannot_be_made(checkpoint, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    model, _ = mg.load(checkpoint("llama"))
    trainer = mg.Trainer(model, mg.TrainConfig(adapter_path=tmp_path / "file/adapters"))
    with pytest.raises(OSError, match=r"Not a directory: .*file/adapters"):
        trainer.fit([[1, 2, 3]] * 4)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MLX_WORLD_SIZE"])
def test_several_processes(name: str, checkpoint, monkeypatch) -> None:
    model, _ = mg.load(checkpoint("llama"))
    monkeypatch.setenv(name, "2")
    with pytest.raises(NotImplementedError, match=r"training across 2 processes.*mpirun"):
        mg.Trainer(model)
    monkeypatch.setenv(name, "1")
    mg.Trainer(model)


@pytest.mark.parametrize("size", [0, -1])
def test_a_cache_that_holds_nothing(size: int, checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError, match=f"max_kv_size: found {size}, wanted at least 1"):
        model.make_cache(size)
    with pytest.raises(ValueError, match=f"max_kv_size: found {size}, wanted at least 1"):
        mg.generate(model, tokenizer, "a", max_kv_size=size)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"kv_bits": 4, "max_kv_size": 16}, NotImplementedError, "kv_bits with a cache that"),
        ({"kv_bits": 4}, ValueError, "kv_group_size 64.* 16 features"),
        ({"max_tokens": -2}, ValueError, "max_tokens: found -2, wanted at least 0, or -1"),
        ({"min_tokens_to_keep": 321}, ValueError, "min_tokens_to_keep: found 321, .* the 320"),
    ],
    ids=lambda value: "" if isinstance(value, type | str) else str(value),
)
def test_options_that_cannot_work(options, kind, says: str, checkpoint) -> None:
    """They are refused before the prompt is read, not at the token from which on they hold."""
    model, tokenizer = mg.load(checkpoint("llama"))
    with pytest.raises(kind, match=says):
        mg.generate(model, tokenizer, "a", **{"max_tokens": 1, **options})


def test_an_empty_prompt(checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("qwen3"))
    with pytest.raises(ValueError, match="prompt"):
        mg.generate(model, tokenizer, "", max_tokens=2)


def test_a_refusal_of_the_system_is_the_error_of_its_kind(checkpoint, tmp_path) -> None:
    (tmp_path / "file").touch()
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, num_layers=2)
    with pytest.raises(NotADirectoryError) as refused:
        model.save_adapters(tmp_path / "file" / "adapters")
    assert refused.value.errno == errno.ENOTDIR
    assert Path(refused.value.filename).is_relative_to(tmp_path / "file")


def test_tokens_are_a_sequence_or_an_array(checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    wanted = mg.generate(model, tokenizer, [5, 6, 7], max_tokens=4)
    for tokens in ((5, 6, 7), mx.array([5, 6, 7]), np.array([5, 6, 7])):
        assert mg.generate(model, tokenizer, tokens, max_tokens=4) == wanted
    for tokens in (mx.array([[5, 6, 7]]), np.array(5), [[5, 6, 7]]):
        with pytest.raises(ValueError, match="wanted one dimension"):
            mg.generate(model, tokenizer, tokens, max_tokens=4)


def test_rows_of_a_data_set(checkpoint, tmp_path) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    rows = mg.load_dataset([{"text": "a"}, {"text": "b"}], tokenizer)
    assert rows[-1] == rows[1] != rows[0] == rows[-2]
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"row {index} of a data set with 2 rows"):
            rows[index]
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    _, _, test = mg.load_dataset(tmp_path, tokenizer)
    mg.apply_lora(model, num_layers=2)
    with pytest.raises(ValueError, match="`load_dataset` gives None for a file"):
        mg.Trainer(model).evaluate(test)
