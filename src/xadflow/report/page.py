"""The nightly report: one self-contained HTML page that says first whether somebody has to act, then shows why.

It opens offline and prints; it has no script, and its own content policy forbids any. Names of images come from
outside: the template escapes everything, characters that do not print are replaced, and only http(s) targets become
links.
"""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from xadflow.images import encode_png
from xadflow.metrics.intervals import Rate, wilson_rate
from xadflow.report.evidence import Drift, ExplainerFigures, ScoreQuantile, WorstCase
from xadflow.report.on_masks import OnMasks
from xadflow.report.transplanted import Line

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "nightly.html"
WIDEST_PICTURE_PX = 360  # stored images stay as they are; the page shows them at about this size on a sharp screen
QUARANTINE_SHOWN = 20


@dataclass(frozen=True)
class NightCounts:
    """What came in and what became of it.

    `new_images` were accepted and had work to do; `scored` and `anomalous` of them have a score row now; `explained`
    anomalous ones have a row of every explainer; `already_there` were complete before tonight; `anew` were scored on an
    earlier night and explained once more, by what has not explained them yet.
    """

    new_images: int
    scored: int
    anomalous: int
    explained: int
    already_there: int = 0
    anew: int = 0


@dataclass(frozen=True)
class Quarantined:
    """A refused file and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Link:
    """Where something is: an address or a path, and one line on what it is for."""

    name: str
    target: str
    note: str = ""


@dataclass(frozen=True)
class Query:
    """A snippet to paste: how to read the tables."""

    name: str
    code: str


@dataclass(frozen=True)
class NightlyReport:
    """Everything on one page. `false_alarm_rate` is the target that `threshold` was calibrated for.

    `on_masks`: how the heat and the replaced regions lie on the masks of test images, where there are any.

    `seconds` are by phase (decode, score, explain, encode, write), in the order shown; `warnings` are sentences that
    ask for a look, `notes` those that do not. `judges_apart`: no judge was fitted on an image that may be a donor.
    """

    title: str
    run_date: date
    dataset: str
    model_name: str
    model_version: int
    run_id: str
    commit: str
    counts: NightCounts
    threshold: float
    false_alarm_rate: float
    quarantined: tuple[Quarantined, ...] = ()
    quantiles: tuple[ScoreQuantile, ...] = ()
    drift: Drift | None = None
    explainers: tuple[ExplainerFigures, ...] = ()
    on_masks: tuple[OnMasks, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    worst_cases: tuple[WorstCase, ...] = ()
    links: tuple[Link, ...] = ()
    queries: tuple[Query, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    judges_apart: bool = True

    @property
    def flagged(self) -> Rate:
        """Share of tonight's scored images that were flagged, with its 95 % interval."""
        return wilson_rate(self.counts.anomalous, self.counts.scored)


@dataclass(frozen=True)
class Headline:
    """The page's first words. `level` is "quiet", "look" or "incomplete"."""

    level: str
    sentence: str
    reasons: tuple[str, ...]


def headline_of(report: NightlyReport) -> Headline:
    """Whether somebody has to act, and why.

    Incomplete: images without their score, or anomalies without their explanations. Look: more flagged than false
    alarms explain (the whole 95 % interval is above the target), drift, refused files, or a warning. Quiet: none.
    """
    counts, flagged, target = report.counts, report.flagged, report.false_alarm_rate
    unfinished, look, calm = [], list(report.warnings), list(report.notes)
    if (missing := counts.new_images - counts.scored) > 0:
        unfinished.append(f"{missing:,} of {counts.new_images:,} new images have no score yet.")
    if (missing := counts.anomalous - counts.explained) > 0:
        unfinished.append(f"{missing:,} of {counts.anomalous:,} flagged images are not explained yet.")
    if counts.scored:
        interval = f"95 % interval {share(flagged.low)} to {share(flagged.high)}"
        if flagged.low > target:
            look.append(f"More images flagged than the {share(target)} false alarms allowed for ({interval}).")
        elif flagged.high < target:
            calm.append(f"Fewer images flagged than the {share(target)} false alarms allowed for ({interval}).")
        else:
            calm.append(f"In line with the {share(target)} false alarms that the threshold allows for ({interval}).")
    if report.drift is not None and report.drift.is_alarming:
        look.append(
            "Scores are distributed otherwise than on earlier nights (largest gap "
            f"{report.drift.statistic:.2f}, p {chance(report.drift.p_value)})."
        )
    if refused := len(report.quarantined):
        look.append(f"{refused:,} {'file' if refused == 1 else 'files'} refused and put in quarantine.")
    sentence = f"{counts.anomalous:,} of {counts.scored:,} new images flagged ({share(flagged.value)})"
    if not counts.scored:
        sentence = "No new image was scored" if counts.new_images else "No new images tonight"
    if counts.anew:
        calm.append(f"Explained anew: {counts.anew:,} of those flagged on earlier nights.")
    level = "incomplete" if unfinished else "look" if look else "quiet"
    return Headline(level, sentence, tuple(unfinished + look + calm))


def write_nightly_report(report: NightlyReport, path: Path) -> None:
    """Render the page and put it at `path` in one step: a reader sees the old page or the new one."""
    content = render_nightly_report(report).encode("utf-8", "replace")  # a file name may not be valid Unicode
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def render_nightly_report(report: NightlyReport) -> str:
    """The page as HTML text."""
    total_s = sum(report.seconds.values())
    return _template().render(
        report=report,
        headline=headline_of(report),
        flagged=report.flagged,
        scale=_scale(report),
        total_s=total_s,
        images_per_s=report.counts.scored / total_s if total_s > 0 else math.nan,
        reasons=Counter(one.reason for one in report.quarantined).most_common(),
        quarantine_shown=QUARANTINE_SHOWN,
        judged=_short_names(report),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xadflow.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=share, sig=sig, chance=chance, seconds=seconds, printable=printable, picture=picture, drawn=drawn
    )
    environment.tests["link"] = _is_link
    return environment.get_template(TEMPLATE)


def share(value: float) -> str:
    """A share as a percentage: "3.4 %", "under 0.1 %", "–" when not a number."""
    if not math.isfinite(value):
        return "–"
    percent = 100 * value
    if 0 < percent < 0.1:
        return "under 0.1\u00a0%"
    text = f"{percent:.1f}"
    return f"{text.removesuffix('.0')}\u00a0%"


def sig(value: float | None, digits: int = 3) -> str:
    """A number to three significant digits, "–" when there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def chance(value: float) -> str:
    """A p-value with its sign: "= 0.0312", "under 0.0001"."""
    return "under 0.0001" if value < 1e-4 else f"= {sig(value)}"


def seconds(value: float) -> str:
    """A duration a person reads: "0.42 s", "38 s", "4 min 05 s", "2 h 10 min"."""
    if not math.isfinite(value):
        return "–"
    if value < 59.5:
        return f"{sig(value, 2)}\u00a0s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def printable(text: str) -> str:
    """Text from outside with what does not print (controls, direction overrides, lone surrogates) made visible."""
    return "".join(letter if letter.isprintable() or letter in "\n\u00a0" else "\ufffd" for letter in text)


def picture(pixels: NDArray[np.uint8]) -> str:
    """A data URI (PNG) of uint8 [C,H,W], shrunk to what the page shows."""
    step = max(1, math.ceil(max(pixels.shape[1:]) / WIDEST_PICTURE_PX))
    if step > 1:
        channels, height, width = pixels.shape
        cut = pixels[:, : height - height % step, : width - width % step].astype(np.float64)
        blocks = cut.reshape(channels, height // step, step, width // step, step)
        pixels = np.rint(blocks.mean((2, 4))).astype(np.uint8)  # (C, H/step, W/step)
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode("ascii")


def drawn(outline: Sequence[Line]) -> str:
    """Closed lines as the path of an SVG: numbers only."""
    return " ".join(f"M{'L'.join(f'{x:.4g},{y:.4g}' for x, y in line)}Z" for line in outline)


def _short_names(report: NightlyReport) -> dict[str, str]:
    """What the page calls each judge: "the judge" where there is one; its whole name is told beside."""
    cases = report.worst_cases
    said = [*(case.verdicts for case in cases), *(one.verdicts for case in cases for one in case.transplants)]
    names = {one.judge for verdicts in said for one in verdicts}
    return {name: "the judge" if len(names) == 1 else name for name in names}


def _is_link(target: str) -> bool:
    """Whether a target may be a link: http(s) only; paths, which the page may be moved away from, are shown as text."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


@dataclass(frozen=True)
class _Scale:
    """Raw scores and shares to per cent of a chart's width."""

    low: float
    high: float
    most_share: float

    def x(self, score: float) -> float:
        return round(100 * (score - self.low) / (self.high - self.low), 2) if self.high > self.low else 50.0

    def of_share(self, value: float) -> float:
        return round(100 * min(value / self.most_share, 1.0), 2)


def _scale(report: NightlyReport) -> _Scale:
    scores = [end for one in report.quantiles for end in (one.now, one.normals)] + [report.threshold]
    pad = 0.04 * (max(scores) - min(scores))
    top = max(report.false_alarm_rate, report.flagged.high if report.counts.scored else 0.0)
    return _Scale(min(scores) - pad, max(scores) + pad, min(1.0, 1.15 * top))
