import datetime as dt
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from xadflow.datasets.manifest import SCHEMA
from xadflow.datasets.quality import validate_manifest, validate_shard
from xadflow.digests import sha256_bytes
from xadflow.errors import ValidationFailed
from xadflow.evidence.tables import EXPLANATIONS, SCORES
from xadflow.settings import DatasetSettings

DATASET = DatasetSettings(source="folder", known_used=2)


def manifest(edit: Callable[[list[dict[str, Any]]], object] = lambda rows: None) -> pa.Table:
    counts = {
        ("train", 0): 12,
        ("val", 0): 4,
        ("gate", 0): 2,
        ("gate", 1): 2,
        ("test", 0): 3,
        ("test", 1): 3,
        ("known", 1): 2,
    }
    rows: list[dict[str, Any]] = []
    for (split, label), count in counts.items():
        for n in range(count):
            name = f"{split}-{label}-{n}"
            rows.append(
                {
                    "image_id": sha256_bytes(name.encode()),
                    "path": f"images/{name}.png",
                    "split": split,
                    "label": label,
                    "category": "bolt",
                    "defect": "scratch" if label else None,
                    "mask_path": f"images/ground_truth/{name}.png" if label else None,
                    "width": 32,
                    "height": 24,
                    "source": "folder bolt",
                    "licence": "not stated",
                }
            )
    edit(rows)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def at(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["path"] == f"images/{name}.png")


def test_a_sound_manifest_passes_with_its_counts() -> None:
    summary = validate_manifest(manifest(), DATASET, false_alarm_rate=0.2)
    assert summary["rows"] == 28
    assert summary["masks"] == 7
    assert summary["counts"]["train/normal"] == 12
    assert len(summary["rules"]) == 18


# One edit a row and rule: all are made in one manifest, so that each rule must find its own rows and no others.
BROKEN = {
    "no image is there twice, in one split or in two (by content hash)": (
        {"train-0-3": {"image_id": sha256_bytes(b"test-0-1")}},
        ["images/train-0-3.png", "images/test-0-1.png"],
    ),
    "train and val hold normal images only": ({"val-0-2": {"label": 1, "defect": "dent"}}, ["images/val-0-2.png"]),
    "known holds defects only": (
        {"known-1-0": {"label": 0, "defect": None, "mask_path": None}},
        ["images/known-1-0.png"],
    ),
    "label is 0 or 1": ({"test-0-0": {"label": 2}}, ["images/test-0-0.png"]),
    "every image has a label": ({"test-0-2": {"label": None}}, ["images/test-0-2.png"]),
    "where one image of a defect has a mask, all have": ({"test-1-2": {"mask_path": None}}, ["images/test-1-2.png"]),
    "no normal image has a mask": ({"train-0-0": {"mask_path": "images/m.png"}}, ["images/train-0-0.png"]),
    "every anomalous image names its defect": ({"test-1-1": {"defect": None}}, ["images/test-1-1.png"]),
    "split is train, val, gate, test or known": ({"gate-0-1": {"split": "gates"}}, ["images/gate-0-1.png"]),
    "width is positive": ({"train-0-1": {"width": 0}}, ["images/train-0-1.png"]),
    "height is positive": ({"train-0-2": {"height": -1}}, ["images/train-0-2.png"]),
    "licence is stated": ({"train-0-4": {"licence": ""}}, ["images/train-0-4.png"]),
    "image_id is a sha256": ({"train-0-5": {"image_id": "abc"}}, ["images/train-0-5.png (abc)"]),
    "every path is inside images/": ({"train-0-6": {"path": "images/a/../../b.png"}}, ["images/a/../../b.png"]),
    "no path is there twice": ({"train-0-7": {"path": "images/train-0-8.png"}}, ["images/train-0-8.png"] * 2),
    "every split holds enough images of each kind": (
        {},
        ["val/normal: 3 of at least 4", "known/anomalous: 1 of at least 2"],
    ),
}


def test_each_broken_rule_is_named_with_its_rows_and_no_others() -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for edits, _ in BROKEN.values():
            for name, change in edits.items():
                at(rows, name).update(change)

    with pytest.raises(ValidationFailed) as refusal:
        validate_manifest(manifest(edit), DATASET, name="bolt", false_alarm_rate=0.2)
    found = refusal.value.seen
    assert set(found) == set(BROKEN)
    for rule, (_, named) in BROKEN.items():
        pairs = zip(sorted(found[rule]), sorted(named), strict=True)
        assert all(row.startswith(name) for row, name in pairs), (rule, found[rule])
    assert all(rule in refusal.value.wrong for rule in BROKEN)
    assert "dvc repro" in refusal.value.next_step


def test_many_failing_rows_are_shortened_and_counted() -> None:
    def unlicensed(rows: list[dict[str, Any]]) -> None:
        for one in rows:
            one["licence"] = ""

    with pytest.raises(ValidationFailed) as refusal:
        validate_manifest(manifest(unlicensed), DATASET)
    (rows,) = refusal.value.seen.values()
    assert rows[-1] == "and 18 more"


def scores(**changes: Any) -> dict[str, Any]:
    number = changes.pop("number", 0)
    return {
        "schema_version": 1,
        "run_date": dt.date(2026, 1, 2),
        "run_id": "r",
        "image_id": sha256_bytes(f"{number}".encode()),
        "image_path": f"data/bolt/images/{number}.png",
        "dataset": "bolt",
        "detector": "fcdd",
        "model_name": "xad.bolt.fcdd",
        "model_version": 1,
        "score": 2.0,
        "threshold": 1.0,
        "p_value": 0.01,
        "is_anomaly": True,
        "created_at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        **changes,
    }


def explanation(**changes: Any) -> dict[str, Any]:
    answer = {
        "concept": 0,
        "image": {"bytes": b"x", "path": None},
        "score": 0.5,
        "p_value": 0.4,
        "is_normal": True,
        "l1": 3.0,
        "l2": 1.0,
        "changed_fraction": 0.1,
        **changes.pop("answer", {}),
    }
    own = {
        "explainer": "sparse",
        "explainer_version": "1",
        "seed": 0,
        "heatmap": {"bytes": b"x", "path": None},
        "heatmap_min": -1.0,
        "heatmap_max": 3.0,
        "original": {"bytes": b"x", "path": None},
        "counterfactuals": [answer],
        "images": [],
        "metrics": [{"name": "flips", "value": 1.0}],
        "lineage": "{}",
        "row_digest": sha256_bytes(b"row"),
    }
    return {
        **scores(**{name: value for name, value in changes.items() if name not in own}),
        **own,
        **{name: value for name, value in changes.items() if name in own},
    }


def shard(score_rows: list[dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    return pa.Table.from_pylist(score_rows, schema=SCORES), pa.Table.from_pylist(rows, schema=EXPLANATIONS)


NORMAL = scores(number=1, score=0.2, p_value=1.0, is_anomaly=False)


def test_a_sound_shard_passes() -> None:
    summary = validate_shard(
        *shard([scores(), NORMAL], [explanation(), explanation(explainer="heatmap", counterfactuals=[])])
    )
    assert (summary["scores"], summary["explanations"]) == (2, 2)


def test_empty_tables_pass_and_explanations_of_images_scored_before_need_no_score_row() -> None:
    validate_shard(*shard([], []))
    validate_shard(*shard([NORMAL], []))
    validate_shard(*shard([], [explanation()]))
    validate_shard(*shard([scores()], [explanation(), explanation(number=7)]))


def test_an_unlabelled_list_and_several_counterfactuals_are_read_by_their_own_row() -> None:
    two = explanation(number=3)
    two["counterfactuals"] = two["counterfactuals"] * 2 + [{**two["counterfactuals"][0], "l1": -1.0}]
    with pytest.raises(ValidationFailed, match="l1 is finite and not negative") as refusal:
        validate_shard(*shard([], [explanation(counterfactuals=None), two]))
    ((row,),) = refusal.value.seen.values()
    assert "images/3.png" in row
    assert "sparse" in row


def word(**changes: Any) -> dict[str, Any]:
    return {"name": "xad.bolt.judge", "version": 1, "score": 0.4, "threshold": 0.6, "is_normal": True, **changes}


def test_the_words_of_judges_pass_beside_rows_that_no_judge_was_asked_about() -> None:
    asked = explanation(answer={"judges": [word(), word(is_normal=False, score=0.7)], "donor_id": "d"})
    summary = validate_shard(*shard([scores(), scores(number=1)], [asked, explanation(number=1)]))
    assert "the score of a judge is finite" in summary["rules"]


# Rule, and the change of one image's score row, explanation row and counterfactual that must break it alone.
BROKEN_SHARD = [
    ("no value is missing or NaN", {"score": float("nan"), "is_anomaly": False}, None),  # must be the first
    ("score is finite", {"score": float("inf")}, {}),
    ("p_value is in (0, 1]", {"p_value": 0.0}, {}),
    ("p_value is in (0, 1]", {"p_value": 1.1}, {}),
    ("score <= threshold where is_anomaly is false", {"is_anomaly": False}, None),
    ("score > threshold where is_anomaly is true", {"score": 1.0}, {}),
    ("every anomaly is explained by every explainer of the shard", {}, None),
    ("score is the same in both tables", {}, {"score": 2.5}),
    ("heatmap_min <= heatmap_max", {}, {"heatmap_min": 4.0}),
    ("lineage is JSON", {}, {"lineage": "no json"}),
    ("row_digest is a sha256", {}, {"row_digest": "x"}),
    ("score <= threshold where is_normal is true", {}, {"answer": {"score": 1.5}}),
    ("score > threshold where is_normal is false", {}, {"answer": {"is_normal": False}}),
    ("the score of a counterfactual is finite", {}, {"answer": {"score": float("-inf")}}),
    ("no value is missing or NaN", {}, {"answer": {"l2": None}}),
    ("the p-value of a counterfactual is in (0, 1]", {}, {"answer": {"p_value": 0.0}}),
    ("changed_fraction is in [0, 1]", {}, {"answer": {"changed_fraction": 1.5}}),
    ("model_version is from 1", {"model_version": 0}, {}),
    ("no value is missing or NaN", {}, {"answer": {"judges": [word(name=None)]}}),
    ("the score of a judge is finite", {}, {"answer": {"judges": [word(), word(score=float("-inf"))]}}),
    ("the threshold of a judge is finite", {}, {"answer": {"judges": [word(threshold=float("inf"))]}}),
    ("the version of a judge is from 1", {}, {"answer": {"judges": [word(version=0)]}}),
    ("a judge's score > threshold where is_normal is false", {}, {"answer": {"judges": [word(is_normal=False)]}}),
    ("a judge's score <= threshold where is_normal is true", {}, {"answer": {"judges": [word(score=0.7)]}}),
]


def test_each_broken_rule_of_a_shard_is_named_with_its_rows_and_no_others() -> None:
    score_rows, rows = [], []
    for number, (_, change, answer) in enumerate(BROKEN_SHARD):
        score_rows.append(scores(number=number, **change))
        if answer is not None:
            rows.append(explanation(number=number, **{**change, **answer}))
    with pytest.raises(ValidationFailed, match="shard breaks") as refusal:
        validate_shard(*shard(score_rows, rows))
    found = {
        rule: {int(row.split("images/")[1].split(".png")[0]) for row in shown}
        for rule, shown in refusal.value.seen.items()
    }
    expected: dict[str, set[int]] = {}
    for number, (rule, _, _) in enumerate(BROKEN_SHARD):
        expected.setdefault(rule, set()).add(number)
    expected["score <= threshold where is_anomaly is false"].add(0)  # NaN is on neither side
    assert {rule: found.get(rule) for rule in expected} == expected
    assert any(row.endswith(", no score") for row in refusal.value.seen["no value is missing or NaN"])
    assert set(found) == set(expected)


def test_the_same_key_twice_is_named_in_either_table() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        validate_shard(*shard([scores(), scores()], [explanation(), explanation()]))
    assert {"one score an image and model", "one explanation an image, model and explainer"} <= set(refusal.value.seen)
    assert all("images/0.png" in row for rows in refusal.value.seen.values() for row in rows)
