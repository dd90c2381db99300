"""Trains the same model on the same data with `mlx_lm.lora` and `graft train`, in turns.

Both run as commands with the same flags. Prints iterations and tokens per second and peak memory
with their ratios, and writes them with the machine's description to `bench/out/train.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import stdlib_text  # noqa: E402
import tiny_llama  # noqa: E402

SMALL = {
    **tiny_llama.CONFIG, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
}  # fmt: skip
MEDIUM = {
    **SMALL, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4,
}  # fmt: skip


@dataclass
class Case:
    """One comparison."""

    name: str
    model: dict[str, Any]
    flags: list[str]
    bits: int | None = None
    dtype: str = "float32"


CASES = [
    Case("6M, full", SMALL, ["--fine-tune-type", "full"]),
    Case("6M, LoRA", SMALL, []),
    Case("18M, LoRA", MEDIUM, []),
    Case("18M, LoRA, 4-bit", MEDIUM, [], bits=4),
    Case("18M, LoRA, bfloat16", MEDIUM, [], dtype="bfloat16"),
]


@dataclass
class Run:
    """What one run of one trainer gave: medians over its reports but the first."""

    iterations_per_second: float
    tokens_per_second: float
    peak_memory: float
    """Bytes that MLX held at most."""
    resident: float
    """Bytes that the process held at most."""
    wall: float
    """Seconds from the start of the process to its end."""
    loss: float


def write_model(folder: Path, case: Case, texts: list[str]) -> Path:
    """Writes the case's model of random weights, quantized if it says so."""
    tiny_llama.write_tokenizer(folder, texts, case.model["vocab_size"])
    tiny_llama.write_random_weights(folder, seed=0, config=case.model)
    path = folder / "model.safetensors"
    dtype = getattr(mx, case.dtype)
    loaded: Any = mx.load(str(path))
    weights: dict[str, mx.array] = {name: w.astype(dtype) for name, w in loaded.items()}
    config = {**case.model, "torch_dtype": case.dtype}
    if case.bits is not None:
        config["quantization"] = {"group_size": 64, "bits": case.bits}
        for name in [name for name, w in weights.items() if w.ndim == 2]:
            packed, scales, biases = mx.quantize(weights[name], group_size=64, bits=case.bits)
            stem = name.removesuffix("weight")
            weights |= {name: packed, f"{stem}scales": scales, f"{stem}biases": biases}
    mx.eval(list(weights.values()))
    path.unlink()
    mx.save_safetensors(str(path), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measure(command: list[Any], log: Path) -> Run:
    """Runs a trainer that writes its reports to `log`."""
    # A machine may name an older core to OpenBLAS, which would slow MLX's own matmul.
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    start = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{output}")
    wall = time.perf_counter() - start
    reports = [json.loads(line) for line in log.read_text().splitlines()]
    reports = [report for report in reports if "train_loss" in report]
    steady = reports[1:] or reports

    def median(key: str) -> float:
        return float(statistics.median(report[key] for report in steady))

    last = steady[-1]
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(
        median("iterations_per_second"),
        median("tokens_per_second"),
        last["peak_memory_bytes"] if "peak_memory_bytes" in last else last["peak_memory"] * 1e9,
        usage.ru_maxrss * unit,
        wall,
        last["train_loss"],
    )


def median_run(runs: list[Run]) -> Run:
    """Returns the median of each number."""
    rows = [asdict(run) for run in runs]
    return Run(**{key: statistics.median(row[key] for row in rows) for key in rows[0]})


def compare(case: Case, options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Runs both trainers in turns; returns their medians and ratios."""
    runs: dict[str, list[Run]] = {"mlx_lm.lora": [], "graft train": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder / "model", case, texts)
        rows = [{"text": text} for text in texts if len(text) > 250][:200]
        data = stdlib_text.write_rows(folder / "data", train=rows)
        flags = [
            "--train", "--model", model, "--data", data, "--iters", options.iters, "--seed", 0,
            "--batch-size", options.batch_size, "--num-layers", case.model["num_hidden_layers"],
            "--max-seq-length", options.length, "--steps-per-report", 1,
            "--learning-rate", 1e-4, "--save-every", 1_000_000, *case.flags,
        ]  # fmt: skip
        for turn in range(options.rounds):
            out = folder / f"peer{turn}"
            peer = [sys.executable, ROOT / "bench/peer_lora.py", folder / f"log{turn}"]
            runs["mlx_lm.lora"].append(
                measure([*peer, *flags, "--adapter-path", out], folder / f"log{turn}")
            )
            out = folder / f"ours{turn}"
            ours = [Path(sys.executable).parent / "graft", "train"]
            runs["graft train"].append(
                measure([*ours, *flags, "--adapter-path", out], out / "metrics.jsonl")
            )
    theirs, graft = (median_run(r) for r in (runs["mlx_lm.lora"], runs["graft train"]))
    return {
        "case": case.name,
        "mlx_lm.lora": asdict(theirs),
        "graft train": asdict(graft),
        "ratios": {
            "iterations_per_second": graft.iterations_per_second / theirs.iterations_per_second,
            "tokens_per_second": graft.tokens_per_second / theirs.tokens_per_second,
            "peak_memory": graft.peak_memory / theirs.peak_memory,
            "resident": graft.resident / theirs.resident,
        },
    }


def report(result: dict[str, Any]) -> None:
    """Prints a result as rows of a table."""
    for name in ("mlx_lm.lora", "graft train"):
        run = result[name]
        print(
            f"{result['case']:20} {name:12} {run['iterations_per_second']:8.3f} it/s "
            f"{run['tokens_per_second']:9.0f} tok/s  MLX peak {run['peak_memory'] / 1e6:7.0f} MB  "
            f"process {run['resident'] / 1e6:7.0f} MB  loss {run['loss']:.4f}"
        )
    ratios = result["ratios"]
    print(
        f"{'':20} {'ratio':12} {ratios['iterations_per_second']:7.2f}x      "
        f"{ratios['tokens_per_second']:7.2f}x      "
        f"       {ratios['peak_memory']:10.2f}x         {ratios['resident']:8.2f}x\n"
    )


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small case, one round")
    parser.add_argument("--case", help="only the cases whose name holds this text")
    parser.add_argument("--iters", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/out/train.json")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.case or options.case in case.name]
    if options.quick:
        cases, options.rounds, options.iters = cases[:1], 1, 4
    texts = stdlib_text.collect()["base"].documents
    results = []
    for case in cases:
        results.append(compare(case, options, texts))
        report(results[-1])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    summary = {
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "device": str(mx.default_device()),
        "options": {k: str(v) for k, v in vars(options).items()},
        "results": results,
    }
    options.output.write_text(json.dumps(summary, indent=2))
    print(f"Written to {options.output}")


def cpu() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
