"""The results of `graft bench` as text."""

from __future__ import annotations

import statistics
from typing import Any

__all__ = ["GRAFT", "MLX_LM", "table"]

GRAFT, MLX_LM = "mlx-graft", "mlx-lm"
ROWS = {
    "LoRA step, ms": ("step", "seconds", 1e3),
    "prompt of 512, tokens/s": ("text", "prompt", 1.0),
    "generation of 128, tokens/s": ("text", "generation", 1.0),
    "step, most memory of arrays, MB": ("step", "arrays", 1e-6),
    "step, most memory of the process, MB": ("step", "resident", 1e-6),
}
"""What is shown: the kind of work, the key of a turn, and the factor of its unit."""
HIGHER_IS_BETTER = {"prompt", "generation"}


def value(case: dict[str, Any], kind: str, name: str, key: str) -> float | None:
    """Returns the median of a contestant's turns (of memory the most), `None` without turns."""
    for one in case[kind]:
        if one["name"] == name and one["turns"]:
            numbers = [turn[key] for turn in one["turns"]]
            memory = key in ("arrays", "resident")
            return float(max(numbers) if memory else statistics.median(numbers))
    return None


def ratio(case: dict[str, Any], kind: str, key: str) -> float | None:
    """Returns how many times faster, or smaller, this project is than mlx-lm."""
    ours, theirs = (value(case, kind, name, key) for name in (GRAFT, MLX_LM))
    if not ours or not theirs:
        return None
    return ours / theirs if key in HIGHER_IS_BETTER else theirs / ours


def table(result: dict[str, Any]) -> str:
    """Returns all medians side by side, and how many times better the first is."""
    machine = result["machine"]
    device = machine["device"]
    name = device.get("device_name") or machine["processor"] or machine["system"]
    lines = [
        f"{name}, {device['kind']}, {machine['cores']} cores; {machine['build']} build; "
        + ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    ]
    for case in result["cases"]:
        lines += ["", f"{case['model']:37}  {GRAFT:>12}  {MLX_LM:>12}  {'times better':>12}"]
        for row, (kind, key, factor) in ROWS.items():
            found = [value(case, kind, name, key) for name in (GRAFT, MLX_LM)]
            cells = ["–" if number is None else f"{factor * number:.1f}" for number in found]
            times = ratio(case, kind, key)
            cells.append("" if times is None else f"{times:.2f} ×")
            lines.append("  ".join([f"{row:37}", *(f"{cell:>12}" for cell in cells)]))
        for kind in ("step", "text"):
            lines += [
                f"{one['name']}, {kind}: {one['error']}" for one in case[kind] if one["error"]
            ]
    return "\n".join(lines)
