"""The section `sparse-speed` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = """\
`make bench-sparse`. {batch} images, {iterations} iterations, p = {p}, one thread, a small network of three convolutions.
*Sorted*: an oracle that sorts and bisects, in the loop as published, written from its description (the released code was not
run: what it loses by the way is not in it). *Ours*: `linear_maximisation_oracle` and `auto_frank_wolfe`. Arms in turns,
medians; *apart*: how far their objectives are from each other, relative for the oracle. *Early stop*: ours beside ours where an
image leaves the batch once it is normal. Load average {load_average_before:.1f} before and {load_average_after:.1f} after:
other work shared the cores.
"""


def sparse_speed_section(figures: Mapping[str, Any]) -> str:
    """One row a size and part, then the generator's speed."""
    lines = [
        TEXT.format(**figures),
        "| | sorted, ms | ours, ms | ratio | least, most of a round | ratio of CPU time | apart |",
        "|---" * 7 + "|",
    ]
    for side, parts in figures["sizes"].items():
        for name, one in parts.items():
            gap = one.get("objective_gap")
            apart = f"{one['stopped']} of {figures['batch']} stopped" if gap is None else f"{gap:.1e}"
            lines.append(
                f"| {side} px, {name.replace('_', ' ')} | {one['ms_first']:,.1f} | {one['ms_second']:,.1f} | "
                f"**{one['ratio']:.2f}** | {min(one['ratio_each']):.2f}, {max(one['ratio_each']):.2f} | "
                f"{one['cpu_ratio']:.2f} | {apart} |"
            )
    speeds = ", ".join(f"{one['images_per_second']:,.0f} at {side} px" for side, one in figures["generator"].items())
    targets = ", ".join(f"{name} {value:g}" for name, value in figures["targets"].items())
    lines.append(f"\nTargets: {targets}.\n")
    lines.append(f"The generator of `diverse`, two counterfactuals an image, images a second: {speeds}.\n")
    return "\n".join(lines)
