"""The section of benchmarks' page about large images, from benchmarks/results/large-images.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = """\
`make bench-large-images`. Generated images on textures of scikit-image, painted defects; nights, gate and `score` look at them at full
size in windows of 128 px that share a quarter. Memory is what all processes of a command hold together, the Prefect server
of the run included; other work shared the machine, so look at CPU seconds. *On the defect*: the highest heat of a flagged
image lies within {near_px} px of its defect.

| | train, test good, test defects | AUROC of test | flagged of good, of defects | heat on the defect | map |
|---|---|---|---|---|---|"""
ROW = (
    "| {name} of {shape[1]:,} x {shape[0]:,} px, {defect_px} px defects | {train}, {good}, {bad} | {auroc:.3f} ({tested[0]}, {tested[1]}) | "
    "{flagged[0]}, {flagged[1]} | {heat_on_defect} of {looked_at} | {map_shape[1]:,} x {map_shape[0]:,} |"
)
COMMANDS = """
| | command | status | seconds | CPU seconds | peak memory |
|---|---|---|---|---|---|"""
TARGET = """
Target: AUROC at least .95, peak memory at most 4,000 MB. `data add` without any option says of the photos: *{warning}*"""


def large_images_section(figures: Mapping[str, Any]) -> str:
    """The section's text."""
    products = figures["products"]
    lines = [TEXT.format(**figures)]
    for name, one in products.items():
        train, good, bad = one["images"]
        if "auroc" in one:
            lines.append(
                ROW.format(name=name, train=train, good=good, bad=bad, looked_at=len(one["heat_apart_px"]), **one)
            )
    lines.append(COMMANDS)
    for name, one in products.items():
        lines += [
            f"| {name} | `{its['command']}` | {its['status']} | {its['seconds']:,.0f} | {its['cpu_seconds']:,.0f} | "
            f"{its['together_mb']:,} MB |"
            for its in one["commands"]
        ]
    warning = next((one["warning"] for one in products.values() if one["warning"]), "nothing")
    return "\n".join([*lines, TARGET.format(warning=warning)]) + "\n"
