"""The section `dense-overhead` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.tables import Figures, head, row, said, table

TEXT = """\
`make bench-dense-overhead`. What DenseHybrid adds to a segmentation net, {classes} classes, one image, one thread, weights as
they are drawn. *Net*: class logits alone, and with the dataset head. *Decision*: the class of each pixel at the image's size,
and with the score beside it, from logits enlarged to the image (*exact*, the default) or from two small maps (*small*, which is
not the same). Arms in turns, medians of {rounds} rounds. Load average {load_average_before:.1f} before and
{load_average_after:.1f} after: other work that shares the cores makes the rounds differ.
"""

COUNT_TEXT = """
Multiply-accumulates of convolutions, counted; target for the dataset head at most {target_overhead:.1%}; published for \
ladder_densenet121 at 1024 x 2048 {published[0]:.3f} to {published[1]:.3f}.
"""
TILES_TEXT = """\
Tiles of {tile_px} px beside the whole image, 512 px of a photograph: distance of the scores in their standard deviations. A net
with a reach is exact with a margin that wide; one with global context has none. Nets are untrained, their batch normalisation
has seen crops of the photograph: an order of magnitude.
"""


HEAD = "| | ms | ratio | least, most of a round | ratio of CPU time |"
ROW = "| {name}, {size}: {arm} | {ms:,.1f} | **{ratio:.3f}** | {least:.3f}, {most:.3f} | {cpu_ratio:.3f} |"
ALONE = "| {name}, {size}: {arm} | {ms:,.1f} |  | |  |"
COUNT_HEAD = "| | net, billions | with the dataset head | more |"
COUNT = "| {net}, {height} x {width} | {gmac[0]:.3f} | {gmac[1]:.3f} | {overhead:.4%} |"
TILE_HEAD = "| | reach, px | margin, px | apart, mean | at most |"
TILE = "| {name} | {reach} | {margin_px} | {mean:.1e} | {most:.1e} |"


def dense_overhead_section(figures: Figures) -> str:
    """Times, then counts, then tiles."""
    lines = [TEXT.format(**figures), *head(HEAD)]
    for name, one in figures["times"].items():
        for arm, cell in one.items():
            if isinstance(cell, Mapping):
                told = {"name": name, "arm": arm, "size": f"{one['height']} x {one['width']}"}
                ends = {"least": min(cell["ratio_each"]), "most": max(cell["ratio_each"])}
                lines.append(row(ROW if "," in arm else ALONE, cell, **told, **ends))
    counted = figures["counts"]
    published = [counted["published_plain"] / 1e9, counted["published_hybrid"] / 1e9]
    counts = ({**one, "gmac": [one["plain"] / 1e9, one["hybrid"] / 1e9]} for one in counted["rows"])
    lines += [said(COUNT_TEXT, figures, published=published), *table(COUNT_HEAD, COUNT, counts)]
    lines += ["\n" + TILES_TEXT.format(**figures), *head(TILE_HEAD)]
    for name, one in figures["tiles"].items():
        reach = "none" if one["reach_px"] is None else str(one["reach_px"])
        lines += [row(TILE, margin, name=name, reach=reach) for margin in one["margins"]]
    return "\n".join(lines) + "\n"
