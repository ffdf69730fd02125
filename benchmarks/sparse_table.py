"""The section `sparse-speed` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, head, row

TEXT = """\
`make bench-sparse`. {batch} images, {iterations} iterations, p = {p}, one thread, a small network of three convolutions.
*Sorted*: an oracle that sorts and bisects, in the loop as published, written from its description (the released code was not
run: what it loses by the way is not in it). *Ours*: `linear_maximisation_oracle` and `auto_frank_wolfe`. Arms in turns,
medians; *apart*: how far their objectives are from each other, relative for the oracle. *Early stop*: ours beside ours where an
image leaves the batch once it is normal. Load average {load_average_before:.1f} before and {load_average_after:.1f} after:
other work shared the cores.
"""


HEAD = "| | sorted, ms | ours, ms | ratio | least, most of a round | ratio of CPU time | apart |"
ROW = """\
| {side} px, {part} | {ms_first:,.1f} | {ms_second:,.1f} | **{ratio:.2f}** | {least:.2f}, {most:.2f} | {cpu_ratio:.2f} | {apart} |"""


def sparse_speed_section(figures: Figures) -> str:
    """One row a size and part, then the generator's speed."""
    lines = [TEXT.format(**figures), *head(HEAD)]
    for side, parts in figures["sizes"].items():
        for name, one in parts.items():
            gap, each = one.get("objective_gap"), one["ratio_each"]
            apart = f"{one['stopped']} of {figures['batch']} stopped" if gap is None else f"{gap:.1e}"
            told = {"side": side, "part": name.replace("_", " "), "apart": apart}
            lines.append(row(ROW, one, **told, least=min(each), most=max(each)))
    speeds = ", ".join(f"{one['images_per_second']:,.0f} at {side} px" for side, one in figures["generator"].items())
    targets = ", ".join(f"{name} {value:g}" for name, value in figures["targets"].items())
    lines.append(f"\nTargets: {targets}.\n")
    lines.append(f"The generator of `diverse`, two counterfactuals an image, images a second: {speeds}.\n")
    return "\n".join(lines)
