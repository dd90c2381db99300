"""The plots of the report."""

from __future__ import annotations

import math
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
from targets import FORMS, MissingError, Results, share_of_limit

COLOURS = {
    "mlx-graft": "#d1495b",
    "mlx-graft, checkpointing": "#edae49",
    "mlx-lm": "#8d99ae",
    "mlx-lm, OpenBLAS": "#5c677d",
    "mlx-lm, accelerated": "#00798c",
    "PyTorch": "#66a182",
    "PyTorch + PEFT": "#66a182",
    "PyTorch + PEFT, bf16": "#66a182",
    "llama.cpp": "#2e4057",
}
plt.rcParams.update({"svg.hashsalt": "mlx-graft", "svg.fonttype": "none", "font.size": 9})


def save(figure: Any, path: Path) -> Path:
    """Writes a figure as SVG, the same bytes for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return path


def not_measured(axes: Any) -> None:
    """Says so in the place of a plot."""
    axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)


def bars(axes: Any, results: Results, name: str, key: str, digits: int) -> None:
    """Draws one bar per contestant of a case, with its number."""
    contestants = results.get(name, {}).get("contestants", [])
    found = [
        (one["name"], statistics.median(turn[key] for turn in one["turns"]))
        for one in contestants
        if one["turns"] and one["name"] in COLOURS
    ]
    axes.set_title(name.split("-", 2)[2])
    if not found:
        not_measured(axes)
        return
    names, numbers = zip(*reversed(found), strict=True)
    drawn = axes.barh(names, numbers, color=[COLOURS[name] for name in names])
    axes.bar_label(drawn, fmt=f"%.{digits}f", padding=2)
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def steps(results: Results, folder: Path) -> Path:
    """Draws the time of a step; the scale is logarithmic, as stock mlx-lm is far off."""
    figure, all_axes = plt.subplots(3, 1, figsize=(7, 6), layout="constrained")
    for axes, form in zip(all_axes, FORMS, strict=True):
        bars(axes, results, f"lora_step-100M-{form}", "seconds", 2)
        axes.set_xscale("log")
    all_axes[-1].set_xlabel("seconds per LoRA step, 100M, 4 × 256 tokens (shorter is better)")
    return save(figure, folder / "lora_step.svg")


def inference(results: Results, folder: Path) -> Path:
    """Draws the speeds of prompts and of generation."""
    figure, grid = plt.subplots(3, 2, figsize=(10, 6), layout="constrained")
    for row, form in zip(grid, FORMS, strict=True):
        bars(row[0], results, f"inference-100M-{form}", "prompt", 0)
        bars(row[1], results, f"inference-100M-{form}", "generation", 0)
        row[1].set_yticklabels([])
    grid[-1][0].set_xlabel("prompt, tokens/s (longer is better)")
    grid[-1][1].set_xlabel("generation, tokens/s")
    return save(figure, folder / "inference.svg")


def roofline(results: Results, folder: Path) -> Path:
    """Draws generation as a share of what the measured bandwidth of the memory allows."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    shown = ["mlx-lm", "mlx-lm, accelerated", "PyTorch", "llama.cpp", "mlx-graft"]
    width = 0.8 / len(shown)
    for number, contestant in enumerate(shown):
        shares = []
        for form in FORMS:
            try:
                shares.append(100 * share_of_limit(results, f"inference-100M-{form}", contestant))
            except MissingError:
                shares.append(math.nan)
        places = [place + (number - 2) * width for place in range(len(FORMS))]
        axes.bar(places, shares, width, label=contestant, color=COLOURS[contestant])
    axes.axhline(100, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(FORMS)), FORMS)
    axes.set_ylabel("% of the memory's limit")
    axes.legend(frameon=False, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, folder / "roofline.svg")


def memory(results: Results, folder: Path) -> Path:
    """Draws the resident memory of training."""
    figure, all_axes = plt.subplots(3, 1, figsize=(7, 6), layout="constrained")
    megabytes = {
        name: {
            "contestants": [
                {**one, "turns": [{"megabytes": t["resident"] / 1e6} for t in one["turns"]]}
                for one in result["contestants"]
            ]
        }
        for name, result in results.items()
        if name.startswith("lora_step")
    }
    for axes, form in zip(all_axes, FORMS, strict=True):
        bars(axes, megabytes, f"lora_step-100M-{form}", "megabytes", 0)
    all_axes[-1].set_xlabel("resident memory of a LoRA step, MB")
    return save(figure, folder / "memory.svg")


def scaling(results: Results, folder: Path) -> Path:
    """Draws the time of a step against layers, length and rank."""
    figure, all_axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for axes, axis in zip(all_axes, ("layers", "length", "rank"), strict=True):
        points = results.get(f"scaling-{axis}", {}).get("points", [])
        times = [1e3 * point["seconds"] for point in points]
        axes.plot([point["x"] for point in points], times, "o-", color=COLOURS["mlx-graft"])
        axes.set_xlabel(axis)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if not points:
            not_measured(axes)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("ms per step, 5M, fp32")
    return save(figure, folder / "scaling.svg")


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Draws all plots; returns them by title."""
    return {
        "LoRA step": steps(results, folder),
        "Resident memory": memory(results, folder),
        "Inference": inference(results, folder),
        "Generation against the memory's limit": roofline(results, folder),
        "Cost against size": scaling(results, folder),
    }
