"""Write docs/reference/benchmarks.md and faults.md from benchmarks/results/*.json; no figure is ever typed: `make
figures`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases_table import folders_page
from benchmarks.counterfactuals_elpv_product_table import counterfactuals_elpv_product_section
from benchmarks.counterfactuals_elpv_table import counterfactuals_elpv_section
from benchmarks.counterfactuals_single_table import counterfactuals_single_section
from benchmarks.counterfactuals_table import counterfactuals_section
from benchmarks.dense_overhead_table import dense_overhead_section
from benchmarks.dense_table import dense_section
from benchmarks.faults_kit.page import faults_page
from benchmarks.finer_map_table import finer_map_section
from benchmarks.large_images_table import large_images_section
from benchmarks.one_class_table import ceiling_section, one_class_section, textures_section
from benchmarks.probe_table import HOW_TO, how_to_with, probe_section
from benchmarks.robust_table import robust_section
from benchmarks.sparse_table import sparse_speed_section
from benchmarks.tables import Figures, head, named, row, said, table
from benchmarks.transplant_table import transplant_section
from benchmarks.utad_table import utad_section

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "benchmarks.md"
FAULTS_PAGE, FOLDERS_PAGE = PAGE.with_name("faults.md"), PAGE.with_name("folders.md")
GROUPS = ("peer-0", "blocks", "blocks 2-4")
VALUE = "{GROUP[auroc]:.3f} [{GROUP[low]:.3f}, {GROUP[high]:.3f}]"
GAP = "{GROUP[minus_padim]:+.3f} [{GROUP[minus_padim_low]:+.3f}, {GROUP[minus_padim_high]:+.3f}] ({GROUP[p_value]:.3f})"

ELPV_TEXT = """\
`make bench-elpv`. Image AUROC of raw scores on 2,223 real solar cells (ELPV, labels 0 and 1 only), 128 px, trunk
EfficientNet-Lite0, all rows on the same images. *peer-0* is the random split that other libraries report on (anomalib
2.7 measured on it: PaDiM .910, PatchCore .894, other stages and a tiny coreset). *blocks* is the mean of five folds of
contiguous rows: neighbouring rows look like cells of one module, a random split flatters every method, **blocks is what
a plant would see**. 60 drawn defects are out of every test set; k of them train. Brackets: 95 % bootstrap over test
images of the mean over training seeds. *p* is a paired bootstrap against PaDiM on the same features (smallest possible
{least:.4f}). What was visible while choosing: the settings were searched with part of these test images in sight (see
the head of `benchmarks/elpv.py`); *blocks 2-4* are the folds that no choice made here has seen. ELPV has no masks, so
nothing is said of localisation.
"""

FAMILY_TEXT = """\
`make bench-elpv-family`. The same protocols with k = 20; what was tried with FCDD's head, by the mean AUROC over peer-0,
blocks-0 and blocks-1 on one seed, which is how the best was chosen and therefore flatters it; the second table is the
best alone, all folds, mean of the training seeds, beside PaDiM with the same trunks, sizes and flips. *blocks 2-4* chose
nothing. Statistics of each cell type use the list's types, which a plant knows of its cells and the product does not ask for.

| tried | one view | four flips |
|---|---|---|"""
FAMILY_BEST = """
Stages 5 and 6 of Lite0 fine-tuned after the head, on peer-0 alone: {fine[fine-tuned]:.4f}; head alone: {fine[head alone]:.4f}.

Best: **{best[row]}, {views}**; measured on {protocols!c}.
"""

NIGHTLY_TEXT = """\
`make bench-nightly`. {images:,} real ELPV cells arrive in an inbox; {score_rows:,} score rows and {explanation_rows:,}
explanation rows (explainer heatmap only: the strict case, since little work makes the orchestrator's share large) are written
in {shards} shards, by plain calls and by the Prefect flow in turns, each into fresh tables, without server start and imports.
Plain calls do one shard after the other; the flow's two threads overlap decoding and writing with scoring, and that gain is in
the figure: it is what a night takes longer or shorter by the flow, not the cost of Prefect's bookkeeping alone.

| median of the rounds | plain calls | Prefect flow |
|---|---|---|
| seconds | {seconds_direct:.1f} | {seconds_flow:.1f} |
| images a second | {images_per_second_direct:.1f} | {images_per_second_flow:.1f} |

Prefect's overhead, median of the rounds: **{overhead_share:+.1%}** ({rounds}; target at most {overhead_target:.0%}). The \
rounds differ as much as a shared machine does.

Where the time goes with every explainer, {all_explainers[images]} images, {all_explainers[explanation_rows]} explanation \
rows, {all_explainers[images_per_second]:.2f} images a second end to end:

| phase | seconds | share | seconds of the heatmap-only night |
|---|---|---|---|"""

AUDIT_TEXT = """\
`make bench-audit`. {rows:,} **generated** rows ({scores:,} scores, {explanations:,} explanations) in {commits:,} commits of
{publish_rows}, {megabytes:,.0f} MB; pictures are drawn, {picture_px} px grey, encoded by the project's own code (PNG, median
bytes: original {original:,}, counterfactual {counterfactual:,}, heatmap {heatmap:,}). Heads are in a signed anchor file, and
every signature is checked. All files are in the file cache; other work shared the machine (load average {load_average:.1f}).
*Since the anchor* reads the rows of one shard that is not anchored yet; ledger, log entries, presence and size of every file,
and all keys are checked either way.

| | seconds | rows recomputed | rows a second | MB read |
|---|---|---|---|---|"""
AUDIT_ROW = "| {title} | {seconds:.1f} | {rows_recomputed:,} | {rows_per_second:,.0f} | {read:,.0f} |"
PUBLISH_TEXT = """
Target since the anchor: at most {target_since_anchor_seconds:.0f} s.

Publishing {publish_rows} rows, ms on the clock (ms of CPU), median of ten commits around the one named. Each log entry after \
the last checkpoint, one every 100 commits, costs a little: compare commits of the same place.
"""

SPEED_TEXT = """\
`make bench-speed`. Batches of {batch} grey crops of a photographed brick wall, half of them with a synthetic anomaly, shifted,
flipped, noised. *Plain* is one image at a time by Pillow, torchvision and numpy in {workers} workers of a DataLoader, with
confetti of the same distribution (a test compares both); its `defects` are our own function called for one image. *Ours* is
whole batches in the process that trains, threads: {threads}, masks included. Arms in turns, medians; load average
{load_average_before:.1f} before and {load_average_after:.1f} after: **other work that shares the cores slows both arms, and
not equally**. CPU time, the start of the workers included, tells more then. The last row adds `{network}`, forward, backward
and AdamW, to the first.
"""
SPEED_HEAD = (
    "| images a second | plain | ours | ratio | least, most of a round | CPU ms an image: plain | ours | ratio |"
)
SPEED_ROW = """\
| {name} | {images_per_second_plain:,.0f} | {images_per_second_ours:,.0f} | {ratio:.1f} | {least:.1f}, {most:.1f} | \
{cpu_ms_per_image_plain:.2f} | {cpu_ms_per_image_ours:.2f} | {cpu_ratio:.1f} |"""
SPEED_END = """
Target for the input on a CPU: {target_input_ratio:.0f}. All but {share:.1%} of the CPU time of our step is the network's."""


def main() -> None:
    """Render every result there is and write the pages."""
    for path, text in (
        (PAGE, page()),
        (FAULTS_PAGE, whole_page("faults", faults_page)),
        (FOLDERS_PAGE, whole_page("cases", folders_page)),
        (HOW_TO, how_to_probe()),
    ):
        if text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else "written")


def whole_page(name: str, render: Callable[[Figures], str]) -> str:
    """The text of a page that is one result's; empty when that was never measured."""
    path = RESULTS / f"{name}.json"
    return render(json.loads(path.read_text())) if path.is_file() else ""


def how_to_probe() -> str:
    """The how-to page about probes with its measured table; empty when `make bench-probe` never ran."""
    path = RESULTS / "probe.json"
    return how_to_with(json.loads(path.read_text())["figures"]) if path.is_file() else ""


def page() -> str:
    """The page's text."""
    parts = ["# Benchmarks\n\nGenerated by `make figures` from `benchmarks/results/`; do not edit.\n"]
    for name, render in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            result = json.loads(path.read_text())
            parts.append(f"## {name}\n\n{render(result['figures'])}\n{_origin(result)}")
    return "\n".join(parts)


def _origin(result: Mapping[str, Any]) -> str:
    return (
        f"Measured {result['date']} at commit `{result['commit']}` on {result['device']}, seeds {result['seeds']}, "
        f"{result['seconds']:.0f} s.\n"
    )


def _by_group(rows: Figures, beside: Sequence[str] | None = None, title: str = "", last: str = "") -> list[str]:
    """A column a group of protocols that every row has, and one for its difference to PaDiM."""
    groups = [group for group in GROUPS if all(group in one for one in rows.values())]
    gaps = groups if beside is None else beside
    titles = " | ".join([*groups, *(f"{group} minus PaDiM (p)" for group in gaps)])
    cells = [VALUE.replace("GROUP", group) for group in groups] + [GAP.replace("GROUP", group) for group in gaps]
    return table(f"| | {titles} |{title}", f"| {{name}} | {' | '.join(cells)} |{last}", named(rows))


def _elpv(figures: Figures) -> str:
    groups = [group for group in GROUPS if all(group in one for one in figures.values())]
    least = min(one[group]["p_value"] for one in figures.values() for group in groups)
    lines = _by_group(figures, ("peer-0", "blocks"), " seed sd (blocks) |", " {blocks[seed_sd]:.4f} |")
    return "\n".join([ELPV_TEXT.format(least=least), *lines]) + "\n"


def _family(figures: Figures) -> str:
    best, fine = figures["best"], figures["fine_tuned"]
    lines = [FAMILY_TEXT] + [f"| {name} | {one['1']:.4f} | {one['4']:.4f} |" for name, one in figures["tried"].items()]
    views = "one view" if best["flips"] == 1 else "four flips"
    chosen = said(FAMILY_BEST, figures, fine=fine, views=views)
    return "\n".join([*lines, chosen, *_by_group(figures["rows"])]) + "\n"


def _nightly(figures: Figures) -> str:
    rounds = ", ".join(f"{one:+.1%}" for one in figures["overhead_share_each_round"])
    lines = [said(NIGHTLY_TEXT, figures, rounds=rounds)]
    whole, strict = figures["all_explainers"], figures["phase_seconds_heatmap_only"]
    for name, value in sorted(whole["phase_seconds"].items(), key=lambda item: -item[1]):
        beside = f"{strict[name]:.1f}" if name in strict else ""
        lines.append(f"| {name} | {value:.1f} | {whole['phase_share'][name]:.1%} | {beside} |")
    return "\n".join(lines) + "\n"


def _audit(figures: Figures) -> str:
    megabytes = sum(figures["bytes_by_table"].values()) / 1e6
    lines = [said(AUDIT_TEXT, figures, **figures["rows_by_table"], **figures["png_bytes_median"], megabytes=megabytes)]
    several = f"full, {figures['processes']} processes"
    for name, title in (
        ("since_anchor", "since the anchor"),
        ("full", several),
        ("full_one_process", "full, 1 process"),
    ):
        one = figures["audits"][name]
        lines.append(row(AUDIT_ROW, one, title=title, read=one["bytes_recomputed"] / 1e6))
    places = [f"commit {cost['commit']}" for cost in figures["publish_seconds"]["scores"]]
    lines += [said(PUBLISH_TEXT, figures), *head(f"| | {' | '.join(places)} |")]
    for name, costs in figures["publish_seconds"].items():
        cells = [f"{cost['seconds'] * 1e3:.0f} ({cost['cpu_seconds'] * 1e3:.0f})" for cost in costs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _speed(figures: Figures) -> str:
    step = figures["step"]
    lines = [SPEED_TEXT.format(**figures, network=step["network"]), SPEED_HEAD, "|---" * 8 + "|"]
    named = {f"input, {name}": one for name, one in figures["inputs"].items()} | {f"step, {step['case']}": step}
    for name, one in named.items():
        each = [ours / plain for plain, ours in zip(one["each_round"]["plain"], one["each_round"]["ours"], strict=True)]
        lines.append(row(SPEED_ROW, one, name=name, least=min(each), most=max(each)))
    share = figures["inputs"][step["case"]]["cpu_ms_per_image_ours"] / step["cpu_ms_per_image_ours"]
    return "\n".join([*lines, said(SPEED_END, figures, share=share)]) + "\n"


SECTIONS: Mapping[str, Callable[[Figures], str]] = {
    "elpv": _elpv,
    "elpv-family": _family,
    "nightly": _nightly,
    "audit": _audit,
    "one-class": one_class_section,
    "textures": textures_section,
    "textures-ceiling": ceiling_section,
    "finer-map": finer_map_section,
    "one-class-speed": _speed,
    "probe": probe_section,
    "counterfactuals": counterfactuals_section,
    "counterfactuals-single": counterfactuals_single_section,
    "counterfactuals-elpv": counterfactuals_elpv_section,
    "counterfactuals-elpv-product": counterfactuals_elpv_product_section,
    "robust": robust_section,
    "sparse-speed": sparse_speed_section,
    "transplant": transplant_section,
    "utad": utad_section,
    "dense": dense_section,
    "dense-overhead": dense_overhead_section,
    "large-images": large_images_section,
}

if __name__ == "__main__":
    main()
