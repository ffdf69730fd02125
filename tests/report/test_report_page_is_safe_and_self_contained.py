from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from xadflow.evidence.alarms import Alarm, Alarms
from xadflow.metrics.intervals import wilson_rate
from xadflow.report import page as report_module
from xadflow.report.evidence import Alternative, Drift, ExplainerFigures, ScoreQuantile, WorstCase
from xadflow.report.on_masks import OnMasks
from xadflow.report.page import (
    Link,
    NightCounts,
    NightlyReport,
    Quarantined,
    Query,
    headline_of,
    picture,
    render_nightly_report,
    write_nightly_report,
)
from xadflow.report.transplanted import MendedPart, Transplant, Verdict
from xadflow.settings import Home
from xadflow.work.night.finish import warnings_of

BOX = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.5), (0.25, 0.5))
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil/x onerror=alert(2)>{{7*7}}\u202egnp.\udcff"


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def night(**changes):
    quiet = NightlyReport(
        title="nightly",
        run_date=dt.date(2026, 11, 22),
        dataset="elpv",
        model_name="xad.elpv.fcdd",
        model_version=3,
        run_id="run",
        commit="0123456789abcdef",
        counts=NightCounts(200, 200, 8, 8),
        threshold=9.5,
        false_alarm_rate=0.05,
    )
    return dataclasses.replace(quiet, **changes)


def full(name):
    grey = np.random.default_rng(0).integers(0, 256, (1, 24, 24), dtype=np.uint8)
    colour = np.repeat(grey, 3, axis=0)
    return night(
        title=name,
        dataset=name,
        model_name=name,
        run_id=name,
        commit=name,
        quarantined=tuple(Quarantined(name, name) for _ in range(25)),
        quantiles=tuple(ScoreQuantile(q, 3 + q, 2 + q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)),
        drift=Drift(0.2, 0.001, 200, 900),
        explainers=(ExplainerFigures(name, 8, 8, 0.9, 0.03, 0.8),),
        on_masks=(OnMasks(name, 0.41, name, wilson_rate(9, 12)), OnMasks(name, float("nan"), name)),
        seconds={name: 3.0, "write": 0.0},
        worst_cases=(
            WorstCase(
                name,
                name,
                12.0,
                9.5,
                0.005,
                grey,
                colour,
                grey,
                colour,
                True,
                3.0,
                0.02,
                (Alternative(name, 0, grey, colour, True, 3.0, 0.2), Alternative(name, 1, grey, None, False, 9.9, 0.4)),
            ),
            WorstCase(name, name, 11.0, 9.5, 0.005, grey, None, grey, colour, False, 9.9, 0.5),
            WorstCase("plain.png", "id", 10.0, 9.5, 0.005),
            WorstCase(
                name,
                name,
                9.0,
                9.5,
                0.005,
                grey,
                colour,
                grey,
                colour,
                True,
                3.0,
                0.02,
                (),
                (
                    Transplant(
                        name, 0, grey, True, 3.0, 0.2, name, name, 0.15, False, (BOX,), (Verdict(name, 2, True, True),)
                    ),
                    Transplant(name, 1, colour, False, 9.9, 0.97, name, None, 0.98, True),
                ),
                (MendedPart(0, grey, False, 9.75), MendedPart(1, grey, True, 3.5)),
                (Verdict(name, 2, False),),
            ),
        ),
        links=(
            Link(name, name, name),
            Link("js", "javascript:alert(1)"),
            Link("file", "file:///etc/passwd"),
            Link("mlflow", "http://127.0.0.1:5000/#/runs/1"),
            Link("table", "var/tables/scores"),
        ),
        queries=(Query(name, name),),
        warnings=(name,),
    )


def test_hostile_names_stay_text():
    page = render_nightly_report(full(HOSTILE))
    elements = Elements(page)
    assert elements.open == []
    assert not {"script", "iframe", "object", "link", "embed", "form"} & set(elements.tags)
    assert not [name for _, name, _ in elements.attributes if name.startswith("on")]
    assert "&lt;script&gt;" in page
    assert "{{7*7}}" in page
    assert "\u202e" not in page


def test_every_picture_is_inline_and_nothing_else_is_fetched():
    page = render_nightly_report(full("name.png"))
    sources = [value for _, name, value in Elements(page).attributes if name in ("src", "srcset", "data", "poster")]
    assert len(sources) == 18
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import", page)
    assert "default-src 'none'" in page


def test_each_of_several_counterfactuals_says_what_the_model_calls_it():
    page = render_nightly_report(full("diverse"))
    assert "diverse 0: normal, score 3.000" in page
    assert "diverse 1: still anomalous, score 9.900" in page
    assert "Several ways" not in render_nightly_report(night(worst_cases=(WorstCase("a.png", "id", 10.0, 9.5, 0.005),)))


def test_transplants_lead_and_say_how_much_was_replaced_from_where_and_what_judges_say():
    case = dataclasses.replace(full("xad.elpv.judge").worst_cases[3], image_path="cell.png")
    page = render_nightly_report(
        night(worst_cases=(case,), explainers=(ExplainerFigures("transplant", 8, 24, 1.0, 0.2, math.nan, 0.92, 0.31),))
    )
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    places = [
        text.index(words)
        for words in (
            "original",
            "15 % of the image replaced, 20 % of the pixels changed",
            "the whole image differs : 98 % replaced, 97 % of the pixels changed",
            "least change normal after",
        )
    ]
    assert places == sorted(places)
    for words in (
        "✓ normal for the detector",
        "✕ still anomalous for the detector",
        "✓ normal for the judge , as the original is",
        "score 3.000; anomalous for the judge",
        "from xad.elpv.jud xad.elpv.judge",
        "92 %",
        "31 %",
    ):
        assert words in text, words
    assert page.count("<path") == 2  # the region's border, twice; the one that is nearly everything has none
    assert 'd="M0.25,0.25L0.75,0.25L0.75,0.5L0.25,0.5Z"' in page


def test_parts_mended_alone_stand_under_the_alternatives_with_what_the_detector_says():
    case = full("a.judge").worst_cases[3]
    text = " ".join(re.sub(r"<[^>]+>", " ", render_nightly_report(night(worst_cases=(case,)))).split())
    places = [
        text.index(words)
        for words in (
            "98 % replaced",
            "One part of the first alternative",
            "✕ still anomalous by this part alone, score 9.750",
            "✓ normal by this part alone, score 3.500",
            "least change normal after",
        )
    ]
    assert places == sorted(places)
    assert "part alone" not in render_nightly_report(night(worst_cases=(dataclasses.replace(case, parts=()),)))


def test_cases_are_counted_among_those_explained_anew_and_judges_told_of_only_where_there_was_one():
    case = dataclasses.replace(full("a.judge").worst_cases[3], verdicts=())
    alone = dataclasses.replace(case, transplants=(case.transplants[1],))
    page = render_nightly_report(night(worst_cases=(alone,) * 3, counts=NightCounts(0, 0, 0, 0, 8, 7)))
    assert "The 3 highest scores of 7 flagged, those of earlier nights" in page
    assert "Judges are" not in page
    assert "Judges are" in render_nightly_report(night(worst_cases=(case,)))


def test_judges_that_have_seen_donors_are_told():
    case = full("a.judge").worst_cases[3]
    for apart in (True, False):
        page = render_nightly_report(night(worst_cases=(case,), judges_apart=apart))
        assert "had no part in it" in page
        assert ("they have seen images that may be donors" in page) is not apart


def test_several_judges_are_called_by_their_names():
    case = full("a.judge").worst_cases[3]
    both = dataclasses.replace(case, verdicts=(Verdict("a.judge", 1, True), Verdict("b.judge", 1, True)))
    page = render_nightly_report(night(worst_cases=(both,)))
    assert "normal for b.judge" in page
    assert "the judge<" not in page


def test_only_http_targets_become_links():
    page = render_nightly_report(full(HOSTILE))
    links = [value for tag, name, value in Elements(page).attributes if (tag, name) == ("a", "href")]
    assert links == ["http://127.0.0.1:5000/#/runs/1"]
    assert "javascript:alert(1)" in page  # shown, not linked


@pytest.mark.parametrize(
    "counts", [NightCounts(0, 0, 0, 0), NightCounts(5, 0, 0, 0), NightCounts(5, 5, 0, 0), NightCounts(1, 1, 1, 1)]
)
def test_a_night_with_nothing_to_show_still_has_a_page(counts):
    page = render_nightly_report(night(counts=counts))
    assert Elements(page).open == []
    assert "nan" not in page.lower().replace("nano", "")
    assert "Worst cases" not in page


def test_the_page_at_the_path_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "reports" / "2026-11-22.html"
    write_nightly_report(night(title="first"), path)
    first = path.read_bytes()

    def broken(self, target):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "replace", broken)
        with pytest.raises(OSError, match="disk full"):
            write_nightly_report(night(title="second"), path)
    assert path.read_bytes() == first
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    write_nightly_report(night(title="second \udcff"), path)
    assert b"second" in path.read_bytes()


def test_a_large_picture_is_shrunk_to_what_the_page_shows():
    assert len(picture(np.zeros((3, 2000, 1500), np.uint8))) < 5_000
    small = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    assert len(picture(small)) > 64 * 64


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "quiet", "In line with the 5\u00a0% false alarms"),
        ({"counts": NightCounts(0, 0, 0, 0)}, "quiet", "No new images tonight"),
        ({"counts": NightCounts(200, 200, 0, 0)}, "quiet", "Fewer images flagged than"),
        ({"counts": NightCounts(200, 200, 60, 60)}, "look", "More images flagged than"),
        ({"drift": Drift(0.3, 1e-9, 200, 900)}, "look", "otherwise than on earlier nights"),
        ({"quarantined": (Quarantined("a.png", "not an image"),)}, "look", "1 file refused"),
        ({"warnings": ("The table grew by a half.",)}, "look", "The table grew"),
        ({"counts": NightCounts(200, 190, 8, 8)}, "incomplete", "10 of 200 new images have no score"),
        ({"counts": NightCounts(200, 200, 8, 3)}, "incomplete", "5 of 8 flagged images are not explained"),
        (
            {"counts": NightCounts(0, 0, 0, 0, 8, 7)},
            "quiet",
            "No new images tonight Explained anew: 7 of those flagged",
        ),
        ({"notes": ("No judge was asked.",)}, "quiet", "No judge was asked."),
        ({"counts": NightCounts(3, 0, 0, 0)}, "incomplete", "No new image was scored"),
    ],
)
def test_the_headline_says_first_whether_to_act(changes, level, words):
    headline = headline_of(night(**changes))
    assert headline.level == level
    assert words in " ".join((headline.sentence, *headline.reasons))
    assert f'class="band {level}"' in render_nightly_report(night(**changes))


def test_a_small_or_likely_drift_is_no_alarm():
    assert not Drift(0.05, 1e-9, 50_000, 50_000).is_alarming
    assert not Drift(0.3, 0.05, 20, 20).is_alarming


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.755, "75.5\u00a0%"),
        (0.05, "5\u00a0%"),
        (0.0004, "under 0.1\u00a0%"),
        (0.0, "0\u00a0%"),
        (1.0, "100\u00a0%"),
        (float("nan"), "–"),
    ],
)
def test_shares_read_as_percentages(value, shown):
    assert report_module.share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (9.8714, "9.87"), (-31.04, "-31.0"), (123456.0, "123,456"), (1.2e-9, "1.20e-09"), (None, "–")],
)
def test_numbers_read_to_three_digits(value, shown):
    assert report_module.sig(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.42, "0.42 s"), (59.7, "1 min 00 s"), (125.0, "2 min 05 s"), (7_800.0, "2 h 10 min")]
)
def test_durations_read_as_people_say_them(value, shown):
    assert report_module.seconds(value).replace("\u00a0", " ") == shown


def test_an_alarm_of_the_ledger_is_the_first_thing_to_look_at(tmp_path):
    home = Home(tmp_path, tmp_path)
    Alarms(home.ledger).sound(Alarm(4, 1, "scores", 2, "d" * 64, "completed, <b>and nothing proves who made it"))
    report = night(warnings=warnings_of(home, {"sparse": "no"}, ["full disk"]))
    headline = headline_of(report)
    assert (headline.level, headline.reasons[0][:6]) == ("look", "ALARM:")
    assert "commit 2 of scores, was completed, &lt;b&gt;and nothing proves" in render_nightly_report(report)
