"""Great Expectations over a manifest and over a shard of results; the only module that knows the library.

Each rule has a sentence as its description. A rule that fails raises ValidationFailed with that sentence and the rows.
Importing the library costs about 7 s, so it happens inside the functions.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.mask_names import looked_for
from xadflow.errors import ValidationFailed
from xadflow.settings import DatasetSettings

_SHA256 = "^[0-9a-f]{64}$"
_SHOWN_ROWS = 10
_MOST = sys.float_info.max
_ONE_AT_A_TIME = threading.Lock()  # the library keeps its context in a global


class _Check(NamedTuple):
    """Rules of one frame; `keys` are the columns that `row_name` names a failing row by."""

    frame: Any
    rules: Sequence[Any]
    keys: tuple[str, ...]
    row_name: Callable[[Mapping[str, Any]], str]


def validate_manifest(
    table: pa.Table, dataset: DatasetSettings, *, name: str = "manifest", false_alarm_rate: float | None = None
) -> dict[str, object]:
    """Check a manifest (columns of xadflow.datasets.manifest.SCHEMA) and return counts and the rules that hold.

    `false_alarm_rate`, if given, sets the fewest val normals: below (1 / rate) - 1 no threshold has the coverage.

    Raises:
        ValidationFailed: naming each rule that fails and its rows, as `path (image_id)` or `split/kind`.
    """
    from xadflow.datasets.quality_frames import minimum_counts

    def named(row: Mapping[str, Any]) -> str:
        its = f"{row['path']} ({str(row['image_id'])[:12]})"
        names = ", ".join(looked_for(str(row["path"]))[:3])
        return f"{its}: looked for {names} in ground_truth/{row['defect']}" if dataset.source == "folder" else its

    gx, gxe, column = _library()
    frame = table.to_pandas()
    # A defect of which any image has a mask promises one for each: a missing one would count as "no defect here".
    promised = sorted(set(frame.loc[frame["mask_path"].notna(), "defect"].dropna()))
    defective, normal = column("label") == 1, column("label") == 0
    rules = [
        gxe.ExpectColumnValuesToMatchRegex(column="image_id", regex=_SHA256, description="image_id is a sha256"),
        gxe.ExpectColumnValuesToBeUnique(
            column="image_id", description="no image is there twice, in one split or in two (by content hash)"
        ),
        gxe.ExpectColumnValuesToBeUnique(column="path", description="no path is there twice"),
        gxe.ExpectColumnValuesToMatchRegex(
            column="path", regex=r"^images/(?!(?:.*/)?\.\.(?:/|$))", description="every path is inside images/"
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="split",
            value_set=[str(split) for split in Split if split != Split.INBOX],
            description="split is train, val, gate, test or known",
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="label", description="every image has a label"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1], description="label is 0 or 1"),
        gxe.ExpectColumnValuesToBeInSet(
            column="label",
            value_set=[0],
            row_condition=column("split").is_in(["train", "val"]),
            description="train and val hold normal images only",
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="label",
            value_set=[1],
            row_condition=column("split") == "known",
            description="known holds defects only",
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column="defect", row_condition=defective, description="every anomalous image names its defect"
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="mask_path", row_condition=normal, description="no normal image has a mask"
        ),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=1, description="width is positive"),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=1, description="height is positive"),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=text, min_value=1, description=f"{text} is stated")
            for text in ("category", "source", "licence")
        ),
    ]
    masked = [
        gxe.ExpectColumnValuesToNotBeNull(
            column="mask_path",
            row_condition=column("defect").is_in(promised),
            description="where one image of a defect has a mask, all have",
        )
    ]
    if dataset.classes:
        rules.append(
            gxe.ExpectColumnValuesToNotBeNull(column="labels_path", description="every scene has a map of class ids")
        )
        rules.append(
            gxe.ExpectColumnValuesToNotBeNull(
                column="mask_path", row_condition=defective, description="every anomalous scene has a mask"
            )
        )
        frame = frame if "labels_path" in frame else frame.assign(labels_path=None)
    minimum = minimum_counts(frame, dataset, false_alarm_rate)
    enough = gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A="count", column_B="minimum", or_equal=True, description="every split holds enough images of each kind"
    )
    checks = [
        _Check(frame, rules, ("path", "image_id"), lambda row: f"{row['path']} ({str(row['image_id'])[:12]})"),
        *([_Check(frame, masked, ("path", "image_id", "defect"), named)] if promised else []),
        _Check(
            minimum,
            [enough],
            ("split", "kind", "count", "minimum"),
            lambda row: f"{row['split']}/{row['kind']}: {row['count']} of at least {row['minimum']}",
        ),
    ]
    held = _run(
        gx,
        name,
        checks,
        f"mend the files, or val_share, gate_share or known_used under datasets.{name} in params.yaml (--val-share and "
        f"--known-used of `xadflow data add`), then `dvc repro validate@{name}`",
    )
    counts = {f"{row['split']}/{row['kind']}": int(row["count"]) for row in minimum.to_dict("records")}
    return {"rows": table.num_rows, "counts": counts, "masks": int(frame["mask_path"].notna().sum()), "rules": held}


def validate_shard(
    scores: pa.Table, explanations: pa.Table, expected: Mapping[str, int] | None = None
) -> dict[str, object]:
    """Check the scalar columns of a shard (tables SCORES and EXPLANATIONS) before it is published.

    `expected` says how many explanations each image should have in this shard if it is anomalous (an earlier, killed
    run may have published some); without it, one of every explainer in the shard. Either table may be empty. Where an
    explanation's image has its score in the same shard, both must agree.

    Raises:
        ValidationFailed: naming each rule that fails and its rows, as `image_path (image_id)` and the explainer.
    """
    gx, gxe, column = _library()
    from xadflow.datasets.quality_frames import KEY, counterfactual_frame, judgement_frame, shard_frames

    scored, explained, both = shard_frames(scores, explanations, expected)
    checks = [
        _Check(
            scored,
            [
                *_score_rules(gxe, column),
                gxe.ExpectCompoundColumnsToBeUnique(column_list=list(KEY), description="one score an image and model"),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="explanations",
                    column_B="explainers",
                    row_condition=column("is_anomaly") == 1,
                    description="every anomaly is explained by every explainer of the shard",
                ),
            ],
            ("image_path", "image_id", "missing"),
            _row_of,
        ),
        _Check(
            explained,
            [
                *_score_rules(gxe, column),
                gxe.ExpectColumnValuesToBeInSet(
                    column="is_anomaly", value_set=[1], description="only anomalies are explained"
                ),
                gxe.ExpectCompoundColumnsToBeUnique(
                    column_list=[*KEY, "explainer", "explainer_version"],
                    description="one explanation an image, model and explainer",
                ),
                gxe.ExpectColumnValuesToMatchRegex(
                    column="row_digest", regex=_SHA256, description="row_digest is a sha256"
                ),
                gxe.ExpectColumnValuesToBeJsonParseable(column="lineage", description="lineage is JSON"),
                gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A="heatmap_max",
                    column_B="heatmap_min",
                    or_equal=True,
                    ignore_row_if="both_values_are_missing",
                    description="heatmap_min <= heatmap_max",
                ),
            ],
            ("image_path", "image_id", "explainer", "missing"),
            _row_of,
        ),
        _Check(
            both,
            [
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A=name, column_B=f"{name}_of_image", description=f"{name} is the same in both tables"
                )
                for name in ("score", "threshold", "p_value")
            ],
            ("image_path", "image_id", "explainer", "missing"),
            _row_of,
        ),
        _Check(
            counterfactual_frame(explanations),
            [
                _nothing_missing(gxe),
                _between(gxe, "score", -_MOST, "the score of a counterfactual is finite"),
                _p_value(gxe, "the p-value of a counterfactual is in (0, 1]"),
                _between(gxe, "l1", 0.0, "l1 is finite and not negative"),
                _between(gxe, "l2", 0.0, "l2 is finite and not negative"),
                _between(gxe, "changed_fraction", 0.0, "changed_fraction is in [0, 1]", 1.0),
                *_flag_rules(gxe, column, flag="is_normal", flagged_above=False),
            ],
            ("image_path", "image_id", "explainer", "missing"),
            _row_of,
        ),
        _Check(
            judgement_frame(explanations),
            [
                _nothing_missing(gxe),
                _between(gxe, "score", -_MOST, "the score of a judge is finite"),
                _between(gxe, "threshold", -_MOST, "the threshold of a judge is finite"),
                _between(gxe, "version", 1, "the version of a judge is from 1"),
                *_flag_rules(gxe, column, flag="is_normal", flagged_above=False, of="a judge's "),
            ],
            ("image_path", "image_id", "explainer", "missing"),
            _row_of,
        ),
    ]
    held = _run(gx, "shard", checks, "nothing of this shard was published; look at the detector or explainer")
    return {"scores": scores.num_rows, "explanations": explanations.num_rows, "rules": held}


def _score_rules(gxe: Any, column: Any) -> list[Any]:
    """What holds of the columns that both tables share."""
    return [
        _nothing_missing(gxe),
        gxe.ExpectColumnValuesToMatchRegex(column="image_id", regex=_SHA256, description="image_id is a sha256"),
        gxe.ExpectColumnValuesToBeBetween(column="model_version", min_value=1, description="model_version is from 1"),
        _between(gxe, "score", -_MOST, "score is finite"),
        _between(gxe, "threshold", -_MOST, "threshold is finite"),
        _p_value(gxe, "p_value is in (0, 1]"),
        *_flag_rules(gxe, column, flag="is_anomaly", flagged_above=True),
    ]


def _nothing_missing(gxe: Any) -> Any:
    return gxe.ExpectColumnValuesToBeInSet(column="missing", value_set=[""], description="no value is missing or NaN")


def _between(gxe: Any, column: str, least: float, description: str, most: float = _MOST) -> Any:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, description=description)


def _p_value(gxe: Any, description: str) -> Any:
    return gxe.ExpectColumnValuesToBeBetween(
        column="p_value", min_value=0, strict_min=True, max_value=1, description=description
    )


def _flag_rules(gxe: Any, column: Any, *, flag: str, flagged_above: bool, of: str = "") -> list[Any]:
    """`flag` says on which side of the threshold the score is; an image is anomalous when score > threshold.

    `of` says whose score it is, where the same rule is there twice.
    """
    return [
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="score",
            column_B="threshold",
            row_condition=column(flag) == int(flagged_above),
            description=f"{of}score > threshold where {flag} is {str(flagged_above).lower()}",
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="threshold",
            column_B="score",
            or_equal=True,
            row_condition=column(flag) == int(not flagged_above),
            description=f"{of}score <= threshold where {flag} is {str(not flagged_above).lower()}",
        ),
    ]


def _row_of(row: Mapping[str, Any]) -> str:
    explainer = f", {row['explainer']}" if "explainer" in row else ""
    missing = f", no {row['missing']}" if row.get("missing") else ""
    return f"{row['image_path']} ({str(row['image_id'])[:12]}){explainer}{missing}"


def _library() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports deprecated standard modules and probes optional drivers
        import great_expectations as gx
        import great_expectations.expectations as gxe
        from great_expectations.expectations.row_conditions import Column
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # names temporary folders
    return gx, gxe, Column


def _run(gx: Any, what: str, checks: Sequence[_Check], next_step: str) -> list[str]:
    """Validate each frame that has rows. Returns the rules that hold, raises ValidationFailed with all that do not."""
    with _ONE_AT_A_TIME:
        held, failed = _outcomes(gx, what, checks)
    if failed:
        raise ValidationFailed(
            f"{what} breaks {len(failed)} expectation(s): {'; '.join(failed)}",
            seen={rule: _shortened(rows) for rule, rows in failed.items()},
            next_step=next_step,
        )
    return sorted(held)


def _outcomes(gx: Any, what: str, checks: Sequence[_Check]) -> tuple[set[str], dict[str, list[str]]]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("frames")
    held: set[str] = set()
    failed: dict[str, list[str]] = {}
    for number, check in enumerate(checks):
        if not len(check.frame):
            continue
        asset = source.add_dataframe_asset(f"frame-{number}").add_batch_definition_whole_dataframe("all")
        batch = asset.get_batch({"dataframe": check.frame})
        # Naming rows doubles the cost of a shard (1.6 s instead of 0.8 s of CPU), so only broken rules pay for it.
        outcomes = batch.validate(
            gx.ExpectationSuite(name=f"{what}-{number}", expectations=list(check.rules)), result_format="BOOLEAN_ONLY"
        ).results
        broken = {str(outcome.expectation_config.description) for outcome in outcomes if not outcome.success}
        held |= {rule.description for rule in check.rules} - broken
        for rule in check.rules:
            if rule.description in broken:
                outcome = batch.validate(
                    rule, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": list(check.keys)}
                )
                rows = [check.row_name(row) for row in outcome.result.get("unexpected_index_list") or []]
                failed.setdefault(rule.description, []).extend(rows or [_trouble(outcome)])
    return held, failed


def _shortened(rows: list[str]) -> list[str]:
    more = len(rows) - _SHOWN_ROWS
    return [*rows[:_SHOWN_ROWS], f"and {more} more"] if more > 0 else rows


def _trouble(outcome: Any) -> str:
    """Why a rule without failing rows did not hold: it could not be evaluated."""
    return f"could not be evaluated: {outcome.exception_info}"[-300:]
