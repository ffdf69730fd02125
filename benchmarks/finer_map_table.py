"""The section `finer-map` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, named, table

TEXT = """\
`make bench-finer-map`. The default `fcdd` on textures ({textures}; 96 px, generated defects, no known ones), {seeds} training
seeds. *Before*: the heatmap was the map that is pooled to the score (stages 4, 5, 6, cells of 16 px). *After*: that of a
second head on stages 2 and 3 (cells of 8 px, `map_stages`). Both are read off one fit, and the score is the same number.
*Untrained*: that second map before its head has learned anything. Gain: of pixel AUROC, 95 % paired bootstrap over test
images. The stages were chosen on brick, easy rung, one seed, **test images in sight**; grass, gravel and the middle rung
changed nothing.
"""


ROW = """\
| {name} | **{pixel_auroc:.3f}** | {gain:+.3f} | {pixel_auroc_each!p:.3f} | **{aupro:.3f}** | {aupro_each!p:.3f} | \
{image_auroc:.3f} |"""
SPEED_TEXT = """\
Images a second at {px} px, {threads} threads, batches of {batch}, arms in turns, medians of {rounds} rounds (target: at most \
{slower_at_most:g} times as long; load average {load_average:.1f}: other work shared the cores):
"""
SPEED_HEAD = "| | before | after | times as long | CPU time, times as much |"
SPEED = """\
| {title} | {images_per_second_before:.0f} | {images_per_second_after:.0f} | **{ratio:.2f}** | {cpu_ratio:.2f} |"""
TIMED = {"score": "`score`, with the heatmap", "gradient": "`score` and its gradient"}


def finer_map_section(figures: Figures) -> str:
    """A table a rung, then the speed."""
    names, speed = " | ".join(figures["textures"]), figures["speed"]
    lines = [TEXT.format(textures=", ".join(figures["textures"]), seeds=figures["seeds"])]
    for rung, rows in figures["rungs"].items():
        titles = f"| heatmap | pixel AUROC | gain | {names} | AUPRO | {names} | image AUROC |"
        lines += [f"### {rung}\n", *table(titles, ROW, named(rows)), ""]
    timed = ({"title": title, **speed[what]} for what, title in TIMED.items())
    lines += [SPEED_TEXT.format(**speed, slower_at_most=figures["slower_at_most"]), *table(SPEED_HEAD, SPEED, timed)]
    return "\n".join(lines) + "\n"
