"""Every mistake gets one clear message, exit code 2, and leaves existing files as they were."""

from __future__ import annotations

import functools
import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from support import ring
from support.run import GRAFT_TRAIN, assert_refused, execute, metrics, old_adapters, snapshot
from support.text import rows


class Bench:
    """A model, data and adapter folder to spoil, and the command to run on them."""

    def __init__(self, folder: Path, model: Path, data: Path, command) -> None:
        self.model = shutil.copytree(model, folder / "model")
        self.data = shutil.copytree(data, folder / "data")
        self.adapters = old_adapters(folder / "adapters")
        self.command = command

    def train(self, *flags: object) -> subprocess.CompletedProcess[str]:
        return self.command(
            "--train", "--model", self.model, "--data", self.data, "--iters", 2, "--num-layers", 1,
            "--val-batches", 1, "--adapter-path", self.adapters, *flags,
        )  # fmt: skip

    def assert_refused(self, *says: object, flags: tuple[object, ...] = ()) -> None:
        before = snapshot(self.adapters)
        assert_refused(self.train(*flags), *map(str, says))
        assert snapshot(self.adapters) == before

    def edit_config(self, **changes: object) -> None:
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def edit_weights(self, **changes: mx.array | None) -> None:
        path = self.model / "model.safetensors"
        weights = {**mx.load(str(path)), **{k.replace("__", "."): v for k, v in changes.items()}}
        kept = {name: value for name, value in weights.items() if value is not None}
        mx.eval(list(kept.values()))
        path.unlink()
        mx.save_safetensors(str(path), kept)


@pytest.fixture
def bench(tmp_path, checkpoint, data, graft_train) -> Bench:
    return Bench(tmp_path, checkpoint("llama"), data(), graft_train)


class TestData:
    def test_no_folder(self, bench: Bench) -> None:
        shutil.rmtree(bench.data)
        bench.assert_refused(bench.data)

    def test_neither_data_nor_model(self, bench: Bench, tmp_path) -> None:
        """The data is looked for before a model is loaded, which may mean to download it."""
        for flags, says in (([], "no data: give --data"), (["--data", tmp_path / "no"], "no such")):
            run = bench.command("--train", "--model", tmp_path / "none", *flags)
            assert_refused(run, says, "train.jsonl")
        run = bench.command("profile", "--model", tmp_path / "none", "--data", tmp_path / "no")
        assert_refused(run, "no such folder", "train.jsonl")

    def test_no_train_file(self, bench: Bench) -> None:
        (bench.data / "train.jsonl").unlink()
        bench.assert_refused(bench.data / "train.jsonl")

    @pytest.mark.parametrize("content", ["", "\n", "  \n\n"])
    def test_empty(self, content: str, bench: Bench) -> None:
        (bench.data / "train.jsonl").write_text(content)
        bench.assert_refused(bench.data / "train.jsonl", "empty")

    def test_broken_line(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        lines = path.read_text().splitlines()
        lines[2] = '{"text": "no end'
        path.write_text("\n".join(lines))
        bench.assert_refused(f"{path}:3", "JSON")

    def test_row_without_the_keys(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text('{"question": "a", "answer": "b"}\n' * 8)
        bench.assert_refused(f"{path}:1", "question", "answer", "text", "prompt", "messages")

    def test_a_later_row_of_another_kind(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        lines = [json.dumps(row) for row in rows("text", 8, 0)]
        lines[5] = '{"prompt": "a", "completion": "b"}'
        path.write_text("\n".join(lines))
        bench.assert_refused(f"{path}:6", "text")

    def test_a_value_of_the_wrong_type(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text('{"text": "a"}\n' * 4 + '{"text": 5}\n' * 4)
        bench.assert_refused(f"{path}:5", "text")

    def test_messages_of_the_wrong_shape(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text('{"messages": "hello"}\n' * 8)
        bench.assert_refused(f"{path}:1", "messages")

    def test_fewer_rows_than_a_batch(self, bench: Bench) -> None:
        bench.assert_refused("train.jsonl", "24", "32", "batch_size", flags=("--batch-size", 32))

    @pytest.mark.parametrize("name", ["train", "valid", "test"])
    def test_a_prompt_that_leaves_nothing_to_learn(self, name: str, bench: Bench) -> None:
        for file in ("train", "valid", "test"):
            lines = [{"prompt": "a", "completion": "b"} for _ in range(4)]
            lines[2]["prompt"] = "a list, " * (30 if file == name else 1)
            text = "\n".join(map(json.dumps, lines))
            (bench.data / f"{file}.jsonl").write_text(text)
        flags = ("--mask-prompt", "--max-seq-length", 64, "--batch-size", 1, "--test")
        path = bench.data / f"{name}.jsonl"
        bench.assert_refused(f"{path}:3", "--max-seq-length", flags=flags)

    @pytest.mark.parametrize(("number", "column"), [("NaN", 24), ("-Infinity", 25)])
    def test_a_number_that_json_has_not(self, number: str, column: int, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text('{"text": "a"}\n' * 4 + f'{{"text": "a", "score": {number}}}\n' * 4)
        found = f"{path}:5: not JSON at column {column}: {number.removeprefix('-')} is no number"
        bench.assert_refused(found, "write null")

    def test_another_encoding(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text(path.read_text(), encoding="utf-16")
        bench.assert_refused(f"{path}: the encoding is UTF-16, wanted UTF-8")

    def test_a_byte_order_mark_is_no_text(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_text(path.read_text(), encoding="utf-8-sig")
        run = bench.train()
        assert run.returncode == 0, run.stderr

    def test_not_text(self, bench: Bench) -> None:
        path = bench.data / "train.jsonl"
        path.write_bytes(b'{"text": "a"}\n{"text": "\xff\xfe"}\n')
        bench.assert_refused(f"{path}:2", "unicode")


class TestModel:
    def test_no_folder(self, bench: Bench) -> None:
        missing = bench.model.parent / "nowhere"
        bench.assert_refused(missing, flags=("--model", missing))

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_file_is_missing(self, name: str, bench: Bench) -> None:
        (bench.model / name).unlink()
        bench.assert_refused(bench.model, Path(name).suffix)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_file_is_not_json(self, name: str, bench: Bench) -> None:
        (bench.model / name).write_text("{")
        bench.assert_refused(bench.model / name)

    def test_a_tensor_is_missing(self, bench: Bench) -> None:
        name = "model.layers.1.self_attn.q_proj.weight"
        bench.edit_weights(**{name: None})
        bench.assert_refused(name, "missing")

    def test_a_tensor_is_extra(self, bench: Bench) -> None:
        bench.edit_weights(**{"model.layers.1.extra.weight": mx.zeros((3,))})
        bench.assert_refused("model.layers.1.extra.weight")

    def test_a_tensor_has_another_shape(self, bench: Bench) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        bench.edit_weights(**{name: mx.zeros((100, 64))})
        bench.assert_refused(name, "[100, 64]", "[128, 64]")

    @pytest.mark.parametrize("size", [4, 100, 40_000])
    def test_truncated_weights(self, size: int, bench: Bench) -> None:
        path = bench.model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        bench.assert_refused(path)

    def test_a_shard_is_missing(self, bench: Bench, checkpoint) -> None:
        shutil.rmtree(bench.model)
        shutil.copytree(checkpoint("llama", shards=3), bench.model)
        (bench.model / "model-00002-of-00003.safetensors").unlink()
        bench.assert_refused("model-00002-of-00003.safetensors")

    @pytest.mark.parametrize(("part", "wanted"), [("weight", "uint32"), ("scales", "float32")])
    def test_a_packed_weight_of_another_dtype(
        self, part: str, wanted: str, bench: Bench, checkpoint
    ) -> None:
        shutil.rmtree(bench.model)
        shutil.copytree(checkpoint("llama", bits=4), bench.model)
        name = f"model.layers.0.mlp.up_proj.{part}"
        tensor = mx.load(str(bench.model / "model.safetensors"))[name]
        bench.edit_weights(**{name: tensor.astype(mx.int32)})
        bench.assert_refused(f'tensor "{name}" is of int32, wanted', wanted)

    def test_unknown_architecture(self, bench: Bench) -> None:
        bench.edit_config(model_type="mamba")
        bench.assert_refused("mamba", "llama", "mistral", "qwen2", "qwen3")

    def test_unknown_rope_scaling(self, bench: Bench) -> None:
        bench.edit_config(rope_scaling={"rope_type": "spiral", "factor": 2.0})
        bench.assert_refused("spiral", "rope")

    @pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
    def test_no_attention_heads(self, family: str, bench: Bench, checkpoint) -> None:
        shutil.rmtree(bench.model)
        shutil.copytree(checkpoint(family), bench.model)
        bench.edit_config(num_attention_heads=0)
        path = bench.model / "config.json"
        bench.assert_refused(f"{path}: num_attention_heads: found 0, wanted at least 1")

    @pytest.mark.parametrize("count", [0, 1_000_000_000_000, 2**64 - 1])
    @pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
    def test_a_number_of_layers_that_cannot_be(
        self, family: str, count: int, bench: Bench, checkpoint
    ) -> None:
        shutil.rmtree(bench.model)
        shutil.copytree(checkpoint(family), bench.model)
        bench.edit_config(num_hidden_layers=count)
        path = bench.model / "config.json"
        bench.assert_refused(f"{path}: num_hidden_layers: found {count}, wanted from 1 to 10000")

    @pytest.mark.parametrize(
        ("single", "says"),
        [
            ({"SpecialToken": {"id": "<x>", "type_id": 0}}, '`single` has the token "<x>"'),
            ({"Sequence": {"id": "B", "type_id": 0}}, "`single` has the sequence B"),
        ],
    )
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_post_processor_with_a_part_that_is_nowhere(
        self, nested: bool, single: object, says: str, bench: Bench
    ) -> None:
        path = bench.model / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        processor = tokenizer["post_processor"]
        processor["single"].append(single)
        if nested:
            processor = {"type": "Sequence", "processors": [processor]}
        path.write_text(json.dumps({**tokenizer, "post_processor": processor}))
        bench.assert_refused(f"{path}: `post_processor`: the template {says}")

    def test_full_fine_tuning_of_packed_weights(self, bench: Bench, checkpoint) -> None:
        shutil.rmtree(bench.model)
        shutil.copytree(checkpoint("llama", bits=4), bench.model)
        bench.assert_refused("quantized", "lora", flags=("--fine-tune-type", "full"))

    def test_a_config_key_is_missing(self, bench: Bench) -> None:
        path = bench.model / "config.json"
        config = json.loads(path.read_text())
        del config["num_hidden_layers"]
        path.write_text(json.dumps(config))
        bench.assert_refused(path, "num_hidden_layers")


class TestAdapters:
    def test_more_layers_than_there_are(self, bench: Bench) -> None:
        bench.assert_refused("3", "2", "num_layers", flags=("--num-layers", 3))

    def test_keys_that_match_nothing(self, bench: Bench, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text(
            "lora_parameters: {rank: 8, dropout: 0.0, scale: 20.0, keys: [attention.wq]}\n"
        )
        bench.assert_refused("attention.wq", "self_attn.q_proj", flags=("--config", config))

    def test_resume_from_another_model(self, bench: Bench, tmp_path) -> None:
        other = tmp_path / "other.safetensors"
        name = "model.layers.1.self_attn.q_proj.lora_a"
        mx.save_safetensors(str(other), {name: mx.zeros((96, 8))})
        bench.assert_refused(
            other, name, "[96, 8]", "[64, 8]", flags=("--resume-adapter-file", other)
        )

    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_resume_from_an_empty_file(self, kind: str, bench: Bench, tmp_path) -> None:
        other = tmp_path / "other.safetensors"
        mx.save_safetensors(str(other), {})
        flags = ("--resume-adapter-file", other, "--fine-tune-type", kind)
        bench.assert_refused(f"{other}: has no tensor", flags=flags)

    @pytest.mark.parametrize(
        ("kind", "tensor", "shape"),
        [
            ("lora", "model.layers.1.mlp.up_proj.lora_a", (64, 8)),
            ("full", "model.layers.1.input_layernorm.weight", (64,)),
        ],
    )
    def test_resume_from_fewer_layers(
        self, kind: str, tensor: str, shape: tuple[int, ...], bench: Bench, tmp_path
    ) -> None:
        """As in mlx-lm, the others begin anew, or keep what the model has."""
        other = tmp_path / "other.safetensors"
        mx.save_safetensors(str(other), {tensor: mx.ones(shape)})
        run = bench.train("--resume-adapter-file", other, "--fine-tune-type", kind)
        assert run.returncode == 0, run.stderr

    @pytest.mark.parametrize("rank", [40_000_000, 10_000_000_000])
    def test_a_rank_that_no_array_has(self, rank: int, bench: Bench, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text(f"lora_parameters: {{rank: {rank}, scale: 2.0, keys: [mlp.up_proj]}}\n")
        found = min(rank, 2**31 - 1)
        says = f"lora_parameters.rank: found {found}, wanted at most 16777215 for mlp.up_proj"
        bench.assert_refused(says, flags=("--config", config))

    def test_resume_from_a_missing_file(self, bench: Bench, tmp_path) -> None:
        missing = tmp_path / "none.safetensors"
        bench.assert_refused(missing, flags=("--resume-adapter-file", missing))

    def test_resume_from_a_folder(self, bench: Bench) -> None:
        file = bench.adapters / "adapters.safetensors"
        bench.assert_refused("a file", file, flags=("--resume-adapter-file", bench.adapters))

    def test_test_without_adapters(self, bench: Bench, tmp_path) -> None:
        missing = tmp_path / "none"
        run = bench.command(
            "--test", "--model", bench.model, "--data", bench.data, "--adapter-path", missing
        )
        assert_refused(run, str(missing))
        assert not missing.exists()

    def test_neither_train_nor_test(self, bench: Bench) -> None:
        run = bench.command("--model", bench.model, "--data", bench.data)
        assert_refused(run, "--train", "--test")


# A typo of each: the message names the flag that was meant.
FLAGS = [
    "model", "train", "data", "fine-tune-type", "optimizer", "mask-prompt", "num-layers",
    "batch-size", "iters", "val-batches", "learning-rate", "steps-per-report", "steps-per-eval",
    "grad-accumulation-steps", "resume-adapter-file", "resume", "adapter-path", "save-every",
    "test", "test-batches", "max-seq-length", "config", "grad-checkpoint", "clear-cache-threshold",
    "seed", "group-by-length",
]  # fmt: skip
YAML_KEYS = [flag.replace("-", "_") for flag in FLAGS if flag != "config"]
YAML_KEYS += ["lora_parameters", "lr_schedule", "optimizer_config"]
NESTED = ["rank", "scale", "dropout", "keys"]


def typo(name: str) -> str:
    return name[:-2] + name[-1] + name[-2]


class TestOptions:
    @pytest.mark.parametrize("flag", FLAGS)
    def test_a_typo_in_a_flag(self, flag: str, graft_train) -> None:
        assert_refused(graft_train(f"--{typo(flag)}", "1"), f"--{typo(flag)}", f"--{flag}")

    @pytest.mark.parametrize("key", YAML_KEYS)
    def test_a_typo_in_a_yaml_key(self, key: str, graft_train, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text(f"seed: 1\n{typo(key)}: 1\n" if key != "seed" else f"{typo(key)}: 1\n")
        run = graft_train("--config", config)
        assert_refused(run, str(config), f"`{typo(key)}`", f"`{key}`")

    @pytest.mark.parametrize("key", NESTED)
    def test_a_typo_in_lora_parameters(self, key: str, graft_train, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        known = {"rank": "8", "scale": "20.0", "dropout": "0.0"}
        known.pop(key, None)
        lines = "".join(f"  {name}: {value}\n" for name, value in known.items())
        config.write_text(f"lora_parameters:\n{lines}  {typo(key)}: 1\n")
        run = graft_train("--config", config)
        assert_refused(run, str(config), f"lora_parameters.{typo(key)}", key)

    def test_an_unknown_command(self, graft) -> None:
        assert_refused(graft("trian"), "trian", "train")

    def test_a_typo_in_generate(self, graft) -> None:
        assert_refused(graft("generate", "--max-tokenz", "3"), "--max-tokenz", "--max-tokens")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--batch-size", "0"),
            ("--batch-size", "four"),
            ("--iters", "-1"),
            ("--learning-rate", "fast"),
            ("--learning-rate", "nan"),
            ("--learning-rate", "1e999"),
            ("--optimizer", "adamm"),
            ("--fine-tune-type", "lara"),
            ("--max-seq-length", "0"),
        ],
    )
    def test_a_value_that_cannot_be(self, flag: str, value: str, bench: Bench) -> None:
        bench.assert_refused(flag, value, flags=(flag, value))

    def test_a_typo_in_a_mapping_that_is_merged(self, graft_train, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text("lora_parameters:\n  <<: {rank: 8, scal: 2.0}\n")
        run = graft_train("--config", config)
        assert_refused(run, f"{config}:2: `lora_parameters.scal`", "`scale`")

    def test_yaml_that_is_not_yaml(self, graft_train, tmp_path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text("iters: 1\nmodel: [unclosed\n")
        assert_refused(graft_train("--config", config), str(config))

    def test_no_config_file(self, graft_train, tmp_path) -> None:
        missing = tmp_path / "c.yaml"
        assert_refused(graft_train("--config", missing), str(missing))

    @pytest.mark.parametrize("kind", ["muon", "sgd", "adafactor"])
    def test_what_is_not_built_says_so(self, kind: str, bench: Bench) -> None:
        bench.assert_refused(kind, "adam", flags=("--optimizer", kind))

    def test_dora_is_not_built(self, bench: Bench) -> None:
        bench.assert_refused("dora", "lora", flags=("--fine-tune-type", "dora"))


def test_several_processes(checkpoint, data, tmp_path) -> None:
    """All would write the same files."""
    adapters = tmp_path / "adapters"
    command = [
        "-m", "mlx_graft.cli", "train", "--train", "--model", checkpoint("llama"), "--data", data(),
        "--iters", "2", "--num-layers", "1", "--adapter-path", adapters,
    ]  # fmt: skip
    for run in ring.launch(command, tmp_path):
        assert_refused(run, "training across 2 processes", "mlx.launch")
    assert not adapters.exists()


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MLX_WORLD_SIZE"])
def test_several_processes_that_do_not_find_each_other(name: str, graft_train, tmp_path) -> None:
    """As under an MPI that MLX cannot load: each believes to be alone."""
    run = graft_train("--train", "--data", tmp_path, env={name: "3"})
    assert_refused(run, "training across 3 processes")


def limited(limit: Callable[[], None]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command `graft-train` with less of something than the machine has."""
    return functools.partial(execute, GRAFT_TRAIN, preexec_fn=limit)


class TestRunning:
    def test_nan_loss(self, bench: Bench) -> None:
        weight = mx.full((64,), float("nan"))
        bench.edit_weights(**{"model.norm.weight": weight})
        before = snapshot(bench.adapters)["adapters.safetensors"]
        run = bench.train()
        assert_refused(run, "NaN", "learning rate")
        assert snapshot(bench.adapters)["adapters.safetensors"] == before

    def test_a_rate_that_explodes(self, bench: Bench) -> None:
        run = bench.train("--iters", 50, "--learning-rate", 1e30, "--steps-per-report", 1)
        assert_refused(run, "step", "learning rate")
        for report in metrics(bench.adapters):
            assert all(value == value for value in report.values()), "no NaN in the metrics"

    def test_no_room_on_the_disk(self, tmp_path, checkpoint, data) -> None:
        """A limit on file sizes stands for a full disk: writing fails in the middle."""

        def limit() -> None:
            # Without a handler the signal would kill, where a full disk gives an error.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))

        bench = Bench(tmp_path, checkpoint("llama"), data(), limited(limit))
        before = snapshot(bench.adapters)["adapters.safetensors"]
        assert_refused(bench.train(), str(bench.adapters / "adapters.safetensors"))
        after = snapshot(bench.adapters)
        assert after["adapters.safetensors"] == before
        temporary = set(after) - {"adapters.safetensors", "adapter_config.json", "metrics.jsonl"}
        assert not temporary, "a failed write cleans up"

    def test_no_room_for_a_line_of_the_metrics(self, tmp_path, checkpoint, data) -> None:
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

        flags = ("--steps-per-report", 1, "--iters", 9)
        bench = Bench(tmp_path, checkpoint("llama"), data(), limited(limit))
        assert_refused(bench.train(*flags), str(bench.adapters / "metrics.jsonl"))
        steps = [report["step"] for report in metrics(bench.adapters)]
        assert steps, "what fitted in is there, and nothing of what did not"
        bench.command = limited(lambda: None)
        run = bench.train(*flags)
        assert run.returncode == 0, run.stderr
        assert len(metrics(bench.adapters)) > len(steps) + 9

    def test_what_a_killed_run_left_is_removed(self, bench: Bench) -> None:
        left = bench.adapters / ".graft-aB3dE6.safetensors"
        left.write_bytes(b"half a file")
        run = bench.train()
        assert run.returncode == 0, run.stderr
        assert not left.exists()

    def test_a_folder_that_cannot_be_made(self, bench: Bench, tmp_path) -> None:
        (tmp_path / "file").write_text("in the way")
        path = tmp_path / "file/adapters"
        assert_refused(bench.train("--adapter-path", path), str(tmp_path / "file"))

    def test_out_of_memory(self, tmp_path, checkpoint, data) -> None:
        def limit() -> None:
            size = 3 << 30
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        bench = Bench(tmp_path, checkpoint("llama"), data(), limited(limit))
        # The batches that are validated on come first, and fit.
        for name, repeats in (("train", 1600), ("valid", 1)):
            text = "the parser returns a new list, and " * repeats
            (bench.data / f"{name}.jsonl").write_text((json.dumps({"text": text}) + "\n") * 64)
        before = snapshot(bench.adapters)["adapters.safetensors"]
        run = bench.train("--max-seq-length", 20_000, "--batch-size", 64, "--num-layers", 2)
        assert_refused(run, "memory", "--batch-size", "--max-seq-length", "--grad-checkpoint")
        assert snapshot(bench.adapters)["adapters.safetensors"] == before


class TestHub:
    def test_offline_and_not_cached(self, graft, data, tmp_path) -> None:
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
        run = graft(
            "train", "--train", "--model", "someone/not-cached", "--data", data(),
            "--adapter-path", tmp_path / "adapters", env=environment,
        )  # fmt: skip
        assert_refused(run, "someone/not-cached", "HF_HUB_OFFLINE")
        assert not (tmp_path / "adapters").exists()

    @pytest.mark.parametrize("name", ["tokenizer.json", "model-00002-of-00003.safetensors"])
    def test_a_stopped_download_is_not_taken_for_the_model(
        self, name: str, graft, checkpoint, tmp_path
    ) -> None:
        repo = tmp_path / "hub/hub/models--someone--tiny"
        shutil.copytree(checkpoint("llama", shards=3), repo / "snapshots/abc")
        (repo / "snapshots/abc" / name).unlink()
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text("abc")
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
        run = graft("generate", "--model", "someone/tiny", "--prompt", "a", env=environment)
        assert_refused(run, name, "hf download someone/tiny", "HF_HUB_OFFLINE")

    def test_a_cached_model_needs_no_network(self, graft, checkpoint, tmp_path) -> None:
        """The layout of the hub's cache: a snapshot folder named by a reference."""
        repo = tmp_path / "hub/hub/models--someone--tiny"
        commit = "0123456789abcdef0123456789abcdef01234567"
        shutil.copytree(checkpoint("llama"), repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text(commit)
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
        run = graft(
            "generate", "--model", "someone/tiny", "--prompt", "a", "--max-tokens", 2,
            env=environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
