"""Writes a report and its plots from the results that are there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import plots
from machine import BENCH, OUT
from targets import FORMS, MissingError, Results, median, share_of_limit, table

DOCS = BENCH.parent / "docs"
REPORT = OUT / "report.md"
HEAD = """\
# Benchmarks

Written by `make bench`; do not edit. `make bench-peers` installs PyTorch and llama.cpp beside, and
`make bench BENCH="PART --fresh"` repeats a part. The programs take turns, so that all meet the
same noise; numbers are medians of 9 turns after one or two that warm up, of 5 with mixed lengths.
A quick run leaves out stock mlx-lm and every program that needs more than half a minute for a
step; it takes 2 turns, 3 for scaling and starting, 1 with mixed lengths. In a full run the slow
ones, which are stock mlx-lm and those whose first turn takes more than half a minute, take 1 or 2
turns without warming up, while the others warm up. Where a result rests on fewer than 5 turns of a
program, "n" says on how many; ratios from 10 on have two digits.

"mlx-lm, OpenBLAS" is stock mlx-lm with the system's OpenBLAS preloaded in the place of the
reference BLAS of MLX's wheel; MLX calls BLAS for float32 only. llama.cpp is compiled for this
processor, on Linux without a BLAS; its 4-bit form is Q4_0, of 4.5 bits a weight, as many as MLX's
affine groups of 64 have. PyTorch runs eagerly, not compiled, with its own scaled dot product
attention. Where a step of it takes longer in bf16 than in fp32, rows "beside" compare with fp32.

Resident memory is the most that the system counted for the process. Models have random weights from
a fixed seed: 100M is a Llama of 12 layers of 768 with a vocabulary of 16,384, 5M one of 6 layers of
256.
"""


def load(folder: Path) -> Results:
    """Reads all results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def turns_of(one: dict[str, Any], key: str, digits: int) -> list[str]:
    """Returns the median and the range of a speed, from the slowest turn to the fastest."""
    speeds = [turn[key] for turn in one["turns"]]
    least, most = f"{min(speeds):.{digits}f}", f"{max(speeds):.{digits}f}"
    return [f"{statistics.median(speeds):.{digits}f}", f"{least}–{most}"]


def training(result: dict[str, Any]) -> str:
    """Returns the contestants of a LoRA step."""
    rows = []
    for one in result["contestants"]:
        if not one["turns"]:
            rows.append([one["name"], one["error"] or "", "", "", "", "", ""])
            continue
        seconds = [turn["seconds"] for turn in one["turns"]]
        losses = [turn["loss"] for turn in [one["first"], *one["turns"]]]
        resident = max(turn["resident"] for turn in one["turns"])
        rows.append([
            one["name"], f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f}",
            str(len(seconds)), f"{resident / 1e6:.0f}", f"{losses[0]:.5f}", f"{losses[-1]:.5f}",
        ])  # fmt: skip
    head = ["", "s/step", "fastest", "turns", "resident, MB", "first loss", "last loss"]
    return markdown(head, rows)


def inference(results: Results, name: str) -> str:
    """Returns the contestants of prompts and generation."""
    rows = []
    for one in results[name]["contestants"]:
        if one["name"] == "memory":
            continue
        if not one["turns"]:
            rows.append([one["name"], one["error"] or "", "", "", "", "", "", "", ""])
            continue
        share = 100 * share_of_limit(results, name, one["name"])
        resident = max(turn["resident"] for turn in one["turns"])
        first = " ".join(map(str, one["turns"][-1]["tokens"][:4]))
        rows.append([
            one["name"], *turns_of(one, "prompt", 0), *turns_of(one, "generation", 1),
            f"{share:.0f} %", str(len(one["turns"])), f"{resident / 1e6:.0f}", first,
        ])  # fmt: skip
    head = [
        "", "prompt, tok/s", "slowest–fastest", "generation, tok/s", "slowest–fastest",
        "of the limit", "turns", "resident, MB", "tokens",
    ]  # fmt: skip
    bandwidth = median(results, name, "memory", "bandwidth") / 1e9
    weights = results[name]["weight_bytes"] / 1e6
    limit = (
        f"A token reads {weights:.0f} MB of weights. The limit is {bandwidth:.1f} GB/s, at which "
        "all cores read as much again and again; what is smaller lies in caches in part."
    )
    return f"{markdown(head, rows)}\n\n{limit}"


def details(results: Results) -> list[str]:
    """Returns the sections with all contestants."""
    out = []
    for size, form in [*(("100M", form) for form in FORMS), ("5M", "fp32")]:
        name = f"lora_step-{size}-{form}"
        if name in results:
            out += [f"### LoRA step, {size}, {form}", training(results[name])]
    for form in FORMS:
        name = f"inference-100M-{form}"
        if name in results:
            try:
                out += [f"### Inference, 100M, {form}", inference(results, name)]
            except MissingError as missing:
                out += [f"Not measured: {missing}"]
    if "kernels-criterion" in results:
        out += ["### Kernels", kernels(results["kernels-criterion"])]
    if "call-core" in results:
        out += ["### A call from Python, without evaluation", calls(results["call-core"])]
    return out


def calls(result: dict[str, Any]) -> str:
    """Returns what it takes to add an operation to a graph from Python."""
    rows = [
        [
            name, *(f"{1e9 * seconds[module]:.0f}" for module in ("mlx.core", "mlx_graft.core")),
            f"{seconds['mlx_graft.core'] / seconds['mlx.core']:.2f} ×",
        ]
        for name, seconds in result["seconds"].items()
    ]  # fmt: skip
    note = "Medians of many short batches of calls, in turns."
    return f"{markdown(['', 'mlx.core, ns', 'mlx_graft.core, ns', 'ratio'], rows)}\n\n{note}"


def kernels(result: dict[str, Any]) -> str:
    """Returns the kernels over sizes."""
    rows = [
        [
            point["group"], point["function"], f"{1e3 * point['seconds']:.3f}",
            f"{point['rate']:.1f} {point['unit']}", f"{100 * point['share']:.0f} %",
        ]
        for point in result["points"]
    ]  # fmt: skip
    note = "More than 100 % means that numbers came from a cache."
    return f"{markdown(['kernel', '', 'ms', 'rate', 'of the limit'], rows)}\n\n{note}"


def conditions(results: Results) -> str:
    """Returns the machines and versions of the results, and on what date each was made."""
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        machine = {key: value for key, value in result["machine"].items() if key != "versions"}
        versions = {k: v or "absent" for k, v in result["machine"]["versions"].items()}
        lines = [f"- {key}: {', '.join(v) if isinstance(v, list) else v}"
                 for key, v in {**machine, "date": result["date"]}.items()]  # fmt: skip
        lines.append(f"- versions: {', '.join(f'{k} {v}' for k, v in versions.items())}")
        groups.setdefault("\n".join(lines), []).append(
            name.replace("-", "/", 1) + (" (quick)" if result["quick"] else "")
        )
    return "\n\n".join(f"{', '.join(names)}:\n\n{text}" for text, names in groups.items())


def findings(page: str, results: Results) -> str:
    """Returns what a person found of a page's results: nothing if those are of another processor.

    The first line of the file names the processor, in a comment.
    """
    path = BENCH / "findings" / f"{page}.md"
    if not path.exists():
        return ""
    head, text = path.read_text().split("\n", 1)
    processors = {f"<!-- {result['machine']['processor']} -->" for result in results.values()}
    return text.strip() if processors == {head} else ""


def write(folder: Path, page: str | None = None) -> None:
    """Writes the report, or a page of `docs` with what a person found on the same processor."""
    results = load(folder)
    path = DOCS / f"{page}.md" if page else REPORT
    pictures = plots.draw(results, path.with_suffix(""))
    rows = table(results)
    parts = [
        HEAD.strip(),
        "## Targets and results",
        markdown(["work", "target", "result", "met"], rows),
    ]
    if page and (text := findings(page, results)):
        parts += ["## What falls short, and why", text]
    parts.append("## Plots")
    parts += [
        f"![{title}]({picture.relative_to(path.parent)})" for title, picture in pictures.items()
    ]
    parts += ["## All contestants", *details(results)]
    parts += ["## Machine and versions", conditions(results)]
    path.write_text("\n\n".join(parts) + "\n")
    for work, wanted, result, met in rows:
        print(f"{work:46} {wanted:48} {result:40} {met}")
    print(f"Written to {path}")


if __name__ == "__main__":
    write(OUT / "results")
