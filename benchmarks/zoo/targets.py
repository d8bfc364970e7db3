"""What we mean to reach on the seven models, and whether a run did.

Times are compared within a round, as on the grid; memory and first steps are medians of a few fresh
processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.grid.targets import Times, geometric_mean, ratio

LEAST_BESIDE_TORCH = {"translation": 1.5}
OTHERS_BESIDE_TORCH = 1.15
MEAN_BESIDE_TORCH = 2.8
LEAST_BESIDE_JAX = 1.0
FIRST_STEP_SECONDS = 1.0

Starts = Mapping[str, Mapping[str, Any]]  # for each model and side seconds and bytes


def least(model: str, side: str) -> float | None:
    """What the time of a side over ours is to be at least."""
    beside_torch = LEAST_BESIDE_TORCH.get(model, OTHERS_BESIDE_TORCH)
    return {"torch": beside_torch, "jax": LEAST_BESIDE_JAX}.get(side)


def verdicts(times: Times, starts: Starts) -> list[list[str]]:
    """For each target that was measured: what it is about, the worst model, found, wanted."""
    rows = []
    for side in ("torch", "jax"):
        found = {model: value for (model,) in times if (value := of(times, model, side))}
        if not found:
            continue
        margins = {model: value / (least(model, side) or 1) for model, value in found.items()}
        worst = min(margins, key=margins.__getitem__)
        reached = sum(margin >= 1 for margin in margins.values())
        wanted = f"{least(worst, side):.2f}"
        verdict = "met" if reached == len(found) else f"met in {reached} of {len(found)}"
        rows.append([f"{side} beside ours", worst, f"{found[worst]:.2f}", wanted, verdict])
        if side == "torch":
            mean = geometric_mean(list(found.values()))
            verdict = "met" if mean >= MEAN_BESIDE_TORCH else "missed"
            wanted = f"{MEAN_BESIDE_TORCH:.2f}"
            rows.append([f"{side} beside ours", "mean", f"{mean:.2f}", wanted, verdict])
    memory = {
        model: sides["torch"]["peak"] / sides["ours"]["peak"]
        for model, sides in starts.items()
        if all(sides.get(side, {}).get("peak") for side in ("torch", "ours"))
    }
    if memory:
        worst = min(memory, key=memory.__getitem__)
        reached = sum(value >= 1 for value in memory.values())
        verdict = "met" if reached == len(memory) else f"met in {reached} of {len(memory)}"
        about = "peak memory of torch beside ours"
        rows.append([about, worst, f"{memory[worst]:.2f}", "1.00", verdict])
    first = {model: sides["ours"]["first"] for model, sides in starts.items() if "ours" in sides}
    if first:
        worst = max(first, key=first.__getitem__)
        reached = sum(value <= FIRST_STEP_SECONDS for value in first.values())
        verdict = "met" if reached == len(first) else f"met in {reached} of {len(first)}"
        wanted = f"at most {FIRST_STEP_SECONDS:.2f}"
        rows.append(["seconds of our first step", worst, f"{first[worst]:.2f}", wanted, verdict])
    return rows


def of(times: Times, model: str, side: str) -> float | None:
    return ratio(times, (model,), side, "ours")
