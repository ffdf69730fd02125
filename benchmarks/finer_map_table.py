"""The section `finer-map` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = """\
`make bench-finer-map`. The default `fcdd` on textures ({textures}; 96 px, generated defects, no known ones), {seeds} training
seeds. *Before*: the heatmap was the map that is pooled to the score (stages 4, 5, 6, cells of 16 px). *After*: that of a
second head on stages 2 and 3 (cells of 8 px, `map_stages`). Both are read off one fit, and the score is the same number.
*Untrained*: that second map before its head has learned anything. Gain: of pixel AUROC, 95 % paired bootstrap over test
images. The stages were chosen on brick, easy rung, one seed, **test images in sight**; grass, gravel and the middle rung
changed nothing.
"""


def finer_map_section(figures: Mapping[str, Any]) -> str:
    """A table a rung, then the speed."""
    names, speed = figures["textures"], figures["speed"]
    lines = [TEXT.format(textures=", ".join(names), seeds=figures["seeds"])]
    for rung, rows in figures["rungs"].items():
        lines += [
            f"### {rung}\n",
            f"| heatmap | pixel AUROC | gain | {' | '.join(names)} | AUPRO | {' | '.join(names)} | image AUROC |",
            "|---" * (2 * len(names) + 5) + "|",
        ]
        for title, one in rows.items():
            pixel, overlap = ([f"{value:.3f}" for value in one[key]] for key in ("pixel_auroc_each", "aupro_each"))
            gain = one["gain"]
            cells = [
                f"**{one['pixel_auroc']:.3f}**",
                f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
                *pixel,
                f"**{one['aupro']:.3f}**",
                *overlap,
                f"{one['image_auroc']:.3f}",
            ]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        f"Images a second at {speed['px']} px, {speed['threads']} threads, batches of {speed['batch']}, arms in turns, medians "
        f"of {speed['rounds']} rounds (target: at most {figures['slower_at_most']:g} times as long; load average "
        f"{speed['load_average']:.1f}: other work shared the cores):\n",
        "| | before | after | times as long | CPU time, times as much |",
        "|---|---|---|---|---|",
    ]
    for what, title in (("score", "`score`, with the heatmap"), ("gradient", "`score` and its gradient")):
        one = speed[what]
        lines.append(
            f"| {title} | {one['images_per_second_before']:.0f} | {one['images_per_second_after']:.0f} | "
            f"**{one['ratio']:.2f}** | {one['cpu_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"
