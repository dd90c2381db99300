"""`graft profile`: where the time and the memory of a training step go."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from support.checkpoints import BASE, config_of
from support.run import assert_refused

ROWS, LENGTH, RANK, LAYERS = 2, 65, 4, BASE["num_hidden_layers"]
KEYS = ["self_attn.q_proj", "self_attn.v_proj"]
YAML = f"lora_parameters: {{rank: {RANK}, keys: {json.dumps(KEYS)}}}\nnum_layers: -1\n"
PARTS = ["operations", "between", "building"]


@pytest.fixture
def measure(graft, tmp_path):
    """Profiles a model, and returns the report and the text."""

    def run(model: Path, *flags: object) -> tuple[dict[str, Any], str]:
        (tmp_path / "lora.yaml").write_text(YAML)
        done = graft(
            "profile", "--model", model, "--config", tmp_path / "lora.yaml", "--turns", 2,
            "--batch-size", ROWS, "--max-seq-length", LENGTH, "--json", tmp_path / "out.json",
            *flags, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == ["lora.yaml", "out.json"]
        return json.loads((tmp_path / "out.json").read_text()), done.stdout

    return run


def row(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [row for row in report["operations"] if row["name"] == name]
    return found


def products(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The products with dense weights."""
    names = ("matmul", "linear", "adapted_matmul")
    return [row for row in report["operations"] if row["name"] in names]


def linear_layers(config: dict[str, Any] = BASE) -> dict[str, tuple[int, int]]:
    """The shapes of the linear layers of a block, by mlx-lm's names."""
    d, inner = config["hidden_size"], config["intermediate_size"]
    narrow = d // config["num_attention_heads"] * config["num_key_value_heads"]
    return {
        "q": (d, d), "k": (d, narrow), "v": (d, narrow), "o": (d, d),
        "gate": (d, inner), "up": (d, inner), "down": (inner, d),
    }  # fmt: skip


def product_flops(config: dict[str, Any] = BASE) -> int:
    """What the products of a step cost, with adapters on queries and values."""
    tokens, sums = ROWS * (LENGTH - 1), 0
    for layer in range(LAYERS):
        for name, (width, out) in linear_layers(config).items():
            # Before the first adapters nothing depends on what is trained.
            backward = layer > 0 or name not in "qkv"
            sums += width * out * (1 + backward)
            if name in "qv":
                # x A and (x A) B, then the derivatives by B, by x A, by A and by x.
                sums += RANK * out * 3 + RANK * width * (2 + backward)
    head = config["hidden_size"] * config["vocab_size"]
    return 2 * tokens * (sums + 2 * head)


def attention_flops() -> tuple[int, int]:
    """What attention costs, and its derivative: the scores again and four products."""
    length, heads = LENGTH - 1, BASE["num_attention_heads"]
    pairs = LAYERS * ROWS * heads * length * (length + 1) // 2
    product = 2 * pairs * BASE["hidden_size"] // heads
    return 2 * product, 5 * product


def test_operations_are_counted_and_weighed(measure, checkpoint) -> None:
    report, _ = measure(checkpoint("llama"))
    assert (report["batch"], report["random"], report["timing"]) == (
        [ROWS, LENGTH],
        True,
        "together",
    )
    assert sum(row["flops"] for row in products(report)) == product_flops()
    # Keys, output, gate with up, and down of each block, and the head for some rows at a time.
    assert row(report, "linear")["calls"] >= 4 * LAYERS + 1
    attention = row(report, "scaled_dot_product_attention")
    gradient = row(report, "scaled_dot_product_attention_grad")
    assert (attention["calls"], gradient["calls"]) == (LAYERS, LAYERS)
    assert (attention["flops"], gradient["flops"]) == attention_flops()
    # Two in each block, and one before the head: all but the first are of a sum.
    assert row(report, "rms_norm")["calls"] == 1
    assert row(report, "add_rms_norm")["calls"] == 2 * LAYERS
    assert row(report, "add_rms_norm")["flops"] is None
    swiglu = row(report, "swiglu")
    numbers = ROWS * (LENGTH - 1) * BASE["intermediate_size"]
    assert (swiglu["calls"], swiglu["bytes"]) == (LAYERS, LAYERS * 3 * 4 * numbers)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the kernel is for AVX2 and AVX-512"
)
def test_adapters_are_a_part_of_large_products(measure, checkpoint) -> None:
    report, _ = measure(checkpoint("llama-wide"))
    adapted = row(report, "adapted_matmul")
    # Of queries and values, and passed back to all blocks but the first.
    assert adapted["calls"] == 2 * LAYERS + 2 * (LAYERS - 1)
    flops = sum(row["flops"] for row in products(report))
    assert flops == product_flops(config_of("llama-wide"))


def test_the_parts_make_the_step(measure, checkpoint) -> None:
    report, text = measure(checkpoint("llama"))
    step, operations = report["step"], report["operations"]
    assert sum(step[part] for part in PARTS) == pytest.approx(step["profiled"])
    assert sum(row["seconds"] for row in operations) == pytest.approx(step["operations"])
    rest = (step["between"] + step["building"]) / step["profiled"]
    assert sum(row["share"] for row in operations) + rest == pytest.approx(1)
    seconds = [row["seconds"] for row in operations]
    assert seconds == sorted(seconds, reverse=True)
    assert len(step["turns"]) == len(step["profiled_turns"]) == 2
    assert step["seconds"] == pytest.approx(sum(step["turns"]) / 2)
    assert step["profiled"] in [pytest.approx(turn) for turn in step["profiled_turns"]]
    limits = report["limits"]
    assert set(limits["flops_per_second"]) == {"float32"}
    for row in operations:
        if row["flops"] and row["seconds"]:
            speed = row["flops"] / row["seconds"]
            assert row["flops_per_second"] == pytest.approx(speed)
            least = speed / limits["flops_per_second"]["float32"]
            assert row["of_the_limit"] >= least * 0.999
        elif row["bytes"] and row["seconds"]:
            speed = row["bytes"] / row["seconds"]
            assert row["bytes_per_second"] == pytest.approx(speed)
            assert row["of_the_limit"] == pytest.approx(speed / limits["bytes_per_second"])
    # The table says the same.
    calls = sum(row["calls"] for row in operations)
    assert re.search(rf"^sum +{calls} +[\d.]+ +100\.0 %$", text, re.M)
    assert "(between operations)" in text and "(building the graph)" in text


def test_the_memory_is_accounted_for(measure, checkpoint) -> None:
    model = checkpoint("llama")
    memory = measure(model)[0]["memory"]
    weights: Any = mx.load(str(model / "model.safetensors"))
    assert memory["frozen"] == sum(weight.nbytes for weight in weights.values())
    adapters = sum(RANK * sum(linear_layers()[name]) for name in "qv")
    assert memory["trained"] == 4 * LAYERS * adapters
    assert memory["optimizer"] == 2 * memory["trained"]
    known = ("frozen", "trained", "optimizer", "other", "step")
    assert sum(memory[key] for key in known) == memory["peak"]
    # At least the logits or what each block keeps for its derivative is held, and each piece of
    # memory that the lifetimes tell of was there.
    logits = 4 * ROWS * (LENGTH - 1) * BASE["vocab_size"]
    assert logits <= sum(made["bytes"] for made in memory["made_by"]) <= memory["step"]
    if memory["resident"] is not None:
        assert memory["most_resident"] >= memory["resident"] > memory["peak"]


def test_packed_weights(measure, checkpoint) -> None:
    report, _ = measure(checkpoint("llama", bits=4, dtype=mx.bfloat16), "--grad-checkpoint")
    # Gate and up are one operation, queries and values one with their adapters. Computed again is
    # all of a block but the last product, as nothing needs what that gives.
    assert row(report, "quantized_matmul_each")["calls"] == 2 * LAYERS
    adapted = row(report, "adapted_quantized_matmul")
    assert adapted["calls"] == (2 + 2) * LAYERS + 2 * (LAYERS - 1)
    assert adapted["flops"] > 0
    forward = (3 + 2) * LAYERS + 1
    backward = 5 * LAYERS - 1 + 1
    assert row(report, "quantized_matmul")["calls"] == forward + backward
    assert set(report["limits"]["flops_per_second"]) >= {"bfloat16"}


def test_apart_and_by_shapes(measure, checkpoint) -> None:
    together, _ = measure(checkpoint("llama"))
    report, text = measure(checkpoint("llama"), "--apart", "--shapes", "--lines", 3)
    assert report["timing"] == "apart"
    assert "Each operation was evaluated alone" in text
    lines = text.split("of limit\n")[1].splitlines()
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "(others)", "(between operations)", "(building the graph)", "sum",
    ]  # fmt: skip
    found = products(report)
    assert len({(*row["inputs"],) for row in found}) > 5
    assert sum(row["flops"] for row in found) == product_flops()
    counts: dict[str, int] = {}
    for row in report["operations"]:
        counts[row["name"]] = counts.get(row["name"], 0) + row["calls"]
    assert counts == {row["name"]: row["calls"] for row in together["operations"]}
    tokens, width = ROWS * (LENGTH - 1), BASE["hidden_size"]
    shapes = [row["inputs"] for row in found]
    assert any(f"[{BASE['vocab_size']}, {width}]" in shape[1] for shape in shapes), (shapes, tokens)


def test_the_first_batch_of_the_data(measure, checkpoint, data) -> None:
    flags = ["--data", data("chat"), "--mask-prompt", "--max-seq-length", 256]
    report, text = measure(checkpoint("qwen3"), *flags)
    assert not report["random"] and "tokens of the data" in text
    rows, length = report["batch"]
    assert rows == 1 and length > LENGTH, "the rows lie one behind the other"
    assert report["options"]["mask_prompt"] is True


def test_rows_of_similar_lengths(measure, checkpoint, tmp_path_factory) -> None:
    """A short row lies behind a long one, and with the flag two long ones side by side."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"text": "a" if i % 2 else "a list, " * 30} for i in range(8)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--data", folder, "--seed", 2]
    batches = [
        measure(checkpoint("llama"), *flags, *more)[0]["batch"]
        for more in ([], ["--group-by-length"])
    ]
    assert batches == [[1, 97], [ROWS, LENGTH]]


def test_a_batch_without_targets_is_refused(graft, checkpoint, tmp_path) -> None:
    row = {"prompt": "a list, " * 30, "completion": "b"}
    (tmp_path / "train.jsonl").write_text((json.dumps(row) + "\n") * 4)
    run = graft(
        "profile", "--model", checkpoint("llama"), "--data", tmp_path, "--mask-prompt",
        "--max-seq-length", 64,
    )  # fmt: skip
    assert_refused(run, f"{tmp_path / 'train.jsonl'}:1", "no token is left to learn")


def test_random_rows_have_a_length_of_their_own(graft, checkpoint, tmp_path) -> None:
    out = tmp_path / "out.json"
    run = graft(
        "profile", "--model", checkpoint("smollm"), "--num-layers", 1, "--turns", 1,
        "--batch-size", 1, "--fine-tune-type", "full", "--json", out,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(out.read_text())["batch"] == [1, 257]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--turns", 0], ["--turns", "from 1 to 1000"]),
        (["--lines", 0], ["--lines", "at least 1"]),
        (["--json", "nowhere/out.json"], ["nowhere/out.json", "a folder that exists"]),
        (["--turns-of", 3], ["--turns-of"]),
        (["--turn", "many"], ["--turns", "many"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--num-layers", 9], ["9"]),
        (["--max-seq-length", 1], ["--max-seq-length"]),
        (["--num-layers", 1, "--batch-size", 1_000_000], ["out of memory", "--batch-size"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if "--" in str(value[0]) else "",
)
def test_mistakes(flags, says, graft, checkpoint, tmp_path) -> None:
    run = graft("profile", "--model", checkpoint("llama"), *flags, cwd=tmp_path)
    assert_refused(run, *says)
    assert not list(tmp_path.iterdir())


def test_the_program_without_python(graft_train, checkpoint, tmp_path) -> None:
    out = tmp_path / "out.json"
    run = graft_train(
        "profile", "--model", checkpoint("llama"), "--num-layers", 1, "--max-seq-length", 33,
        "--turns", 1, "--json", out,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(out.read_text())["batch"] == [4, 33]
    assert_refused(graft_train("profile", "--turns", 0), "--turns")


def test_no_model(graft, tmp_path) -> None:
    assert_refused(graft("profile", "--model", tmp_path / "none"), "none")


def test_the_help_lists_both_kinds_of_flags(graft) -> None:
    text = graft("profile", "--help").stdout
    assert text.startswith("Show where the time and the memory of a training step go")
    for flag in ("--json", "--shapes", "--apart", "--turns", "--lines", "--model", "--config"):
        assert re.search(rf"^ .*{flag}\b", text, re.M), flag
