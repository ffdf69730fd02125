"""The section `dense-overhead` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = """\
`make bench-dense-overhead`. What DenseHybrid adds to a segmentation net, {classes} classes, one image, one thread, weights as
they are drawn. *Net*: class logits alone, and with the dataset head. *Decision*: the class of each pixel at the image's size,
and with the score beside it, from logits enlarged to the image (*exact*, the default) or from two small maps (*small*, which is
not the same). Arms in turns, medians of {rounds} rounds. Load average {load_average_before:.1f} before and
{load_average_after:.1f} after: other work that shares the cores makes the rounds differ.
"""

TILES_TEXT = """\
Tiles of {tile_px} px beside the whole image, 512 px of a photograph: distance of the scores in their standard deviations. A net
with a reach is exact with a margin that wide; one with global context has none. Nets are untrained, their batch normalisation
has seen crops of the photograph: an order of magnitude.
"""


def dense_overhead_section(figures: Mapping[str, Any]) -> str:
    """Times, then counts, then tiles."""
    lines = [TEXT.format(**figures), "| | ms | ratio | least, most of a round | ratio of CPU time |", "|---" * 5 + "|"]
    for name, one in figures["times"].items():
        for arm, cell in one.items():
            if isinstance(cell, Mapping):
                ratio = (
                    (
                        f"**{cell['ratio']:.3f}** | {min(cell['ratio_each']):.3f}, {max(cell['ratio_each']):.3f} | "
                        f"{cell['cpu_ratio']:.3f}"
                    )
                    if "," in arm
                    else " | | "
                )
                lines.append(f"| {name}, {one['height']} x {one['width']}: {arm} | {cell['ms']:,.1f} | {ratio} |")
    counted = figures["counts"]
    lines += [
        "\nMultiply-accumulates of convolutions, counted; target for the dataset head at most "
        f"{figures['target_overhead']:.1%}; published for ladder_densenet121 at 1024 x 2048 "
        f"{counted['published_plain'] / 1e9:.3f} to {counted['published_hybrid'] / 1e9:.3f}.\n",
        "| | net, billions | with the dataset head | more |",
        "|---" * 4 + "|",
    ]
    lines += [
        f"| {row['net']}, {row['height']} x {row['width']} | {row['plain'] / 1e9:.3f} | {row['hybrid'] / 1e9:.3f} | "
        f"{row['overhead']:.4%} |"
        for row in counted["rows"]
    ]
    lines += [
        "\n" + TILES_TEXT.format(**figures),
        "| | reach, px | margin, px | apart, mean | at most |",
        "|---" * 5 + "|",
    ]
    for name, one in figures["tiles"].items():
        reach = "none" if one["reach_px"] is None else str(one["reach_px"])
        lines += [
            f"| {name} | {reach} | {row['margin_px']} | {row['mean']:.1e} | {row['most']:.1e} |"
            for row in one["margins"]
        ]
    return "\n".join(lines) + "\n"
