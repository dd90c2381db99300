"""The targets, and what the results say of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from overheads import allowed

Results = dict[str, dict[str, Any]]
"""The content of the files of results, by `part-case`."""
Verdict = tuple[str, bool | None]
"""What was measured, in words, and whether it meets the target; `None` if there is none to meet."""
FORMS = ("fp32", "bf16", "4-bit")
OURS, ACCELERATED, PADDED = "mlx-graft", "mlx-lm, accelerated", "mlx-lm's batches"
TORCH, STOCK, LLAMA = "PyTorch + PEFT", "mlx-lm", "llama.cpp"
MANY = 5
"""Medians of fewer turns than this say of how many."""


class MissingError(Exception):
    """A result that a target needs is not there."""


@dataclass(frozen=True)
class Target:
    """A row of the table."""

    work: str
    wanted: str
    judge: Callable[[Results], Verdict]


def case(results: Results, name: str) -> dict[str, Any]:
    """Returns the result of a case."""
    if name not in results:
        raise MissingError(name.replace("-", "/", 1))
    return results[name]


def values(results: Results, name: str, contestant: str, key: str) -> list[float]:
    """Returns a number of each of a contestant's turns."""
    for one in case(results, name)["contestants"]:
        if one["name"] == contestant and one["turns"]:
            return [turn[key] for turn in one["turns"]]
    raise MissingError(f"{name.replace('-', '/', 1)}: {contestant}")


def median(results: Results, name: str, contestant: str, key: str) -> float:
    """Returns the median of a number over a contestant's turns."""
    return float(statistics.median(values(results, name, contestant, key)))


def times(ratio: float) -> str:
    """Returns a ratio in words, with no more digits than the noise of a shared machine leaves."""
    return f"{ratio:.2f} ×" if ratio < 9.995 else f"{float(f'{ratio:.2g}'):,.0f} ×"


def few(counts: Iterable[int]) -> str:
    """Returns how many turns the least measured took, if those were few."""
    least = min(counts, default=MANY)
    return f", n = {least}" if least < MANY else ""


def few_of(results: Results, *places: tuple[str, str]) -> str:
    """Returns the same of contestants, each in its case."""
    return few(len(values(results, name, who, "resident")) for name, who in places)


def resident(results: Results, name: str, contestant: str) -> float:
    """Returns the most bytes that a contestant held."""
    return max(values(results, name, contestant, "resident"))


def share_of_limit(results: Results, name: str, contestant: str) -> float:
    """Returns generation as a share of what the memory's bandwidth allows."""
    bandwidth = median(results, name, "memory", "bandwidth")
    limit = bandwidth / float(case(results, name)["weight_bytes"])
    return median(results, name, contestant, "generation") / limit


def speed(
    work: str, peer: str, wanted: float, name: str, key: str = "seconds", ours: str = OURS
) -> Target:
    """Wants a multiple of a peer's speed; `key` is a time or a speed."""

    def judge(results: Results) -> Verdict:
        mine, theirs = (median(results, name, who, key) for who in (ours, peer))
        ratio = theirs / mine if key == "seconds" else mine / theirs
        text = times(ratio)
        if key == "generation":
            text += f", {100 * share_of_limit(results, name, ours):.0f} % of the memory's limit"
        return text + few_of(results, (name, ours), (name, peer)), ratio >= wanted

    return Target(work, f"≥ {wanted:g} × {peer}", judge)


def beside_the_faster(work: str, form: str) -> Target:
    """Shows our speed as a multiple of PyTorch's in the dtype in which it is faster.

    Nothing is wanted of it: PyTorch in fp32 needs the memory that bf16 and 4 bits are to save. Its
    steps in fp32 were no turns among ours, but those of another run.
    """
    name = f"lora_step-100M-{form}"
    same = TORCH if form == "bf16" else f"{TORCH}, bf16"

    def judge(results: Results) -> Verdict:
        theirs = {"bf16": (name, same), "fp32, of another run": ("lora_step-100M-fp32", TORCH)}
        seconds = {how: median(results, *at, "seconds") for how, at in theirs.items()}
        how = min(seconds, key=seconds.__getitem__)
        ratio = seconds[how] / median(results, name, OURS, "seconds")
        text = f"{times(ratio)} its speed ({how})"
        return text + few_of(results, (name, OURS), theirs[how]), None

    return Target(work, f"beside {TORCH}, its faster dtype", judge)


def memory(form: str, contestant: str, wanted: float) -> Target:
    """Wants a share of mlx-lm's resident memory."""
    name = f"lora_step-100M-{form}"

    def judge(results: Results) -> Verdict:
        share = resident(results, name, contestant) / resident(results, name, STOCK)
        text = times(share) + few_of(results, (name, contestant), (name, STOCK))
        return text, share <= wanted

    work = f"{form} step, resident memory{contestant.removeprefix(OURS)}"
    return Target(work, f"≤ {wanted:g} × {STOCK}", judge)


def quantized_time(results: Results) -> Verdict:
    """Compares a 4-bit step with PyTorch's in bf16."""
    name = "lora_step-100M-4-bit"
    both = (OURS, f"{TORCH}, bf16")
    ours, theirs = (median(results, name, who, "seconds") for who in both)
    text = times(ours / theirs) + few_of(results, *((name, who) for who in both))
    return text, ours / theirs <= 1.2


def quantized_memory(results: Results) -> Verdict:
    """Compares the memory of our bf16 and 4-bit steps."""
    places = [(f"lora_step-100M-{form}", OURS) for form in ("bf16", "4-bit")]
    plain, packed = (resident(results, *at) for at in places)
    text = f"{(plain - packed) / 1e6:.0f} MB less" + few_of(results, *places)
    return text, plain - packed >= 100e6


def difference(name: str, base: str, other: str, limit: float) -> Callable[[Results], Verdict]:
    """Compares two medians of one case."""

    def judge(results: Results) -> Verdict:
        seconds = case(results, name)["seconds"]
        more = statistics.median(seconds[other]) - statistics.median(seconds[base])
        text = f"{more:.2f} s" + few(len(seconds[key]) for key in (base, other))
        return text, more <= limit

    return judge


def outside_evaluation(results: Results) -> Verdict:
    """Looks at what a step costs beyond its compiled graph's replay."""
    points = case(results, "overheads-step")["points"]
    own = [point["own"] for point in points]
    tensors = [point["tensors"] for point in points]
    met = all(seconds <= allowed(point) for seconds, point in zip(own, points, strict=True))
    return f"{1e6 * own[0]:.0f} µs at {tensors[0]}, {1e6 * own[-1]:.0f} µs at {tensors[-1]}", met


def linear(axis: str) -> Target:
    """Wants the time of a step to lie on a straight line."""

    def judge(results: Results) -> Verdict:
        points = case(results, f"scaling-{axis}")["points"]
        x = np.array([point["x"] for point in points])
        y = np.array([point["seconds"] for point in points])
        # Relative to the measurements, as a small one counts as much as a large one.
        fit = np.polyval(np.polyfit(x, y, 1, w=1 / y), x)
        off = float(np.max(np.abs(fit / y - 1)))
        text = f"within {100 * off:.0f} % of a line"
        # Results of earlier versions do not say it.
        return text + few(p["turns"] for p in points if "turns" in p), off <= 0.15

    return Target(f"time of a step against {axis}", "linear (within 15 %)", judge)


TARGETS = [
    speed("fp32 LoRA step", TORCH, 1.5, "lora_step-100M-fp32"),
    speed("fp32 LoRA step", STOCK, 40, "lora_step-100M-fp32"),
    speed("bf16 LoRA step", TORCH, 1, "lora_step-100M-bf16"),
    beside_the_faster("bf16 LoRA step", "bf16"),
    speed("bf16 LoRA step", STOCK, 60, "lora_step-100M-bf16"),
    Target("4-bit QLoRA step", f"≤ 1.2 × the time of {TORCH} bf16", quantized_time),
    beside_the_faster("4-bit QLoRA step", "4-bit"),
    Target("4-bit QLoRA step, resident memory", "≥ 100 MB less than our bf16", quantized_memory),
    speed("5M model, fp32 LoRA step", TORCH, 1, "lora_step-5M-fp32"),
    speed(
        "mixed lengths (30–480), real tokens/s", PADDED, 1.4,
        "mixed_lengths-100M-fp32", "tokens_per_second",
    ),
    *(memory(form, OURS, 0.7) for form in FORMS),
    *(memory(form, f"{OURS}, checkpointing", 0.45) for form in FORMS),
    *(speed(f"prompt of 512, {f}", LLAMA, 1, f"inference-100M-{f}", "prompt") for f in FORMS),
    *(
        speed(f"generation of 128, {f}", LLAMA, 1, f"inference-100M-{f}", "generation")
        for f in FORMS
    ),
    *(
        speed(f"{f} step, `accelerate()`", STOCK, 20, f"lora_step-100M-{f}", ours=ACCELERATED)
        for f in FORMS
    ),
    *(
        speed(
            f"prompt, {f}, `accelerate()`", STOCK, 20, f"inference-100M-{f}", "prompt",
            ACCELERATED,
        )
        for f in FORMS
    ),
    *(
        speed(
            f"generation, {f}, `accelerate()`", LLAMA, 0.5, f"inference-100M-{f}", "generation",
            ACCELERATED,
        )
        for f in FORMS
    ),
    Target(
        "import of the package", "≤ 0.3 s over `import mlx.core`",
        difference("startup-import", "mlx.core", "mlx_graft", 0.3),
    ),
    Target(
        "`graft-train` to its first step", "≤ 1 s over loading the weights",
        difference("startup-graft-train", "weights", "graft-train", 1.0),
    ),
    Target(
        "step outside evaluation, by trained tensors",
        "≤ 0.2 ms + 1 µs per tensor beyond the graph's replay", outside_evaluation,
    ),
    *(linear(axis) for axis in ("layers", "length", "rank")),
]  # fmt: skip


def table(results: Results) -> list[tuple[str, str, str, str]]:
    """Returns the rows: the work, the target, the result, and whether it is met.

    A dash stands for what is not measured, and for what has no target.
    """
    rows = []
    for target in TARGETS:
        try:
            text, met = target.judge(results)
            verdict = "–" if met is None else "yes" if met else "no"
        except MissingError as missing:
            text, verdict = f"not measured ({missing})", "–"
        rows.append((target.work, target.wanted, text, verdict))
    return rows
