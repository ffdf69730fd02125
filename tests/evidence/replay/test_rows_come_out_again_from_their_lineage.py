"""`xadflow audit replay` on real rows of a real detector, on forged ones, and without what a replay needs."""

from __future__ import annotations

import json
from unittest.mock import ANY

import pytest
import torch
from click.testing import CliRunner

from tests.evidence.replay.conftest import MODEL, set_lineage
from xadflow.cli import audit as audit_commands
from xadflow.errors import AuditFailed, BadWeights
from xadflow.evidence.replay import ASSUMED, DIFFERS, IDENTICAL, IMPOSSIBLE, WITHIN, replay
from xadflow.images import decode_png, encode_png
from xadflow.settings import load_settings


def outcomes(night, image_id, store=None, settings=None):
    told = replay(night.home, settings or night.settings, night.registry, store or night.store, image_id)
    return {one.explainer or one.table: one for one in told}


def test_every_row_of_an_anomaly_is_formed_again_to_the_bit_whatever_this_process_was_set_to(night) -> None:
    torch.set_num_threads(2)
    try:
        for image_id in (night.flagged[0], night.flagged[4]):  # of a full batch, and of the one after it
            told = outcomes(night, image_id)
            assert {name: one.outcome for name, one in told.items()} == dict.fromkeys(
                ["scores", "heatmap", "sparse", "diverse"], IDENTICAL
            )
            assert not any(one.conditions or one.assumed for one in told.values())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_score_of_a_normal_image_is_formed_again_from_its_file_wherever_it_went(night) -> None:
    image_id = night.normal[0]
    told = outcomes(night, image_id)["scores"]
    assert told.outcome in (IDENTICAL, WITHIN)
    assert "score batch" in told.conditions
    (row,) = [row for row in night.store.read("scores").to_pylist() if row["image_id"] == image_id]
    path = night.home.project / row["image_path"]
    away = path.with_name("moved.png")
    path.rename(away)
    try:
        path.write_bytes((path.parent / "00.png" if path.name != "00.png" else path.parent / "01.png").read_bytes())
        told = outcomes(night, image_id)["scores"]  # another image lies in its place
        assert told.outcome == IMPOSSIBLE
        assert row["image_path"] in told.missing
    finally:
        away.replace(path)


@pytest.mark.parametrize("how", ["gone", "another picture"])
def test_nothing_is_identical_by_an_assumption(night, how: str) -> None:
    """Without bytes that the image_id names, nobody can say that a stored original shows that image."""
    image_id = night.flagged[0]
    (row,) = [row for row in night.store.read("scores").to_pylist() if row["image_id"] == image_id]
    path = night.home.project / row["image_path"]
    other = next(one for one in path.parent.iterdir() if one != path and one.is_file())
    away = path.with_name("kept")
    path.rename(away)  # never written into: DVC's cache may be a link to it
    try:
        if how != "gone":
            path.write_bytes(other.read_bytes())
        away.replace(night.home.state / "kept")
        told = outcomes(night, image_id)
    finally:
        path.unlink(missing_ok=True)
        (night.home.state / "kept").replace(path)
    assert {one.outcome for one in told.values()} == {ASSUMED}
    assert all("the stored original stands for it" in one.assumed[0] for one in told.values())


def test_the_score_of_another_picture_is_not_identical(night, forged) -> None:
    """A night that scored and explained other bytes under this image_id: both tables agree with each other."""
    image_id = night.flagged[0]
    stored = {row["image_id"]: row for row in night.store.read("explanations").to_pylist()}
    other = stored[night.flagged[1]]

    def swapped(row) -> None:
        if row["image_id"] == image_id:
            row["score"], row["p_value"] = other["score"], other["p_value"]
            if "original" in row:
                row["original"] = other["original"]

    assert outcomes(night, image_id, forged(swapped, table=ANY))["scores"].outcome == DIFFERS


def changed_counterfactual(row) -> None:
    if row["explainer"] == "sparse":
        pixels = decode_png(row["counterfactuals"][0]["image"]["bytes"]).copy()
        pixels[0, 3, 3] ^= 1
        row["counterfactuals"][0]["image"]["bytes"] = encode_png(pixels)


def changed_heatmap(row) -> None:
    if row["explainer"] == "heatmap":
        pixels = decode_png(row["heatmap"]["bytes"])
        row["heatmap"]["bytes"] = encode_png(255 - pixels)


def changed_score(row) -> None:
    row["score"] += 0.5


def nudged_score(row) -> None:
    row["score"] += 1e-6


def changed_original(row) -> None:
    pixels = decode_png(row["original"]["bytes"])
    row["original"]["bytes"] = encode_png(pixels[:, ::-1])


def called_normal(row) -> None:
    row["counterfactuals"] = [{**one, "is_normal": not one["is_normal"]} for one in row["counterfactuals"]]


def left_out(row) -> None:
    if row["explainer"] == "diverse":
        row["counterfactuals"] = row["counterfactuals"][:1]


@pytest.mark.parametrize(
    ("change", "of", "column"),
    [
        (changed_counterfactual, "sparse", "counterfactuals[0].image"),
        (changed_heatmap, "heatmap", "heatmap"),
        (changed_score, "sparse", "score"),
        (nudged_score, "heatmap", "score"),
        (changed_original, "heatmap", "original"),
        (called_normal, "sparse", "counterfactuals[0].is_normal"),
        (left_out, "diverse", "counterfactuals[1].score"),
    ],
)
def test_a_row_that_was_changed_differs_though_all_its_digests_were_written_anew(
    night, forged, change, of, column
) -> None:
    told = outcomes(night, night.flagged[0], forged(change))[of]
    assert told.outcome == DIFFERS
    assert column in [one.column for one in told.differences if not one.within]


def test_a_changed_verdict_in_scores_differs(night, forged) -> None:
    told = outcomes(night, night.flagged[0], forged(lambda row: row.update(is_anomaly=False), "scores"))
    assert told["scores"].outcome == DIFFERS
    assert [one.column for one in told["scores"].differences] == ["is_anomaly"]
    assert told["sparse"].outcome == IDENTICAL


def test_weights_that_are_not_the_registered_ones_are_refused(night) -> None:
    registry = night.registry
    judge = registry.detector_folder(registry.resolve("xad.plates.judge@judge")) / "weights.safetensors"
    (generator,) = night.home.mlflow_artifacts.rglob("artifacts/explainer/generator.safetensors")
    for path, refused in (
        (registry.detector_folder(night.ref) / "weights.safetensors", {"scores", "heatmap", "sparse", "diverse"}),
        (generator, {"diverse"}),
        (judge, {"sparse", "diverse"}),
    ):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        try:
            told = outcomes(night, night.flagged[0])
        finally:
            path.write_bytes(content)
        assert {one for one in told if told[one].outcome == IMPOSSIBLE} == refused
        assert all("is not the one that was registered" in told[one].missing for one in refused)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "0" * 64}, "its lineage names 0000000000000000"),
        ({"model_version": 9}, f"{MODEL} version 9"),
        ({"batch_members": None}, "does not tell batch_members"),
        ({"batch_size": 10**9}, "of batch_size 1000000000"),
    ],
)
def test_a_lineage_that_cannot_be_followed_says_what_it_lacks(night, forged, changes, said) -> None:
    told = outcomes(night, night.flagged[0], forged(lambda row: set_lineage(row, **changes)))
    assert told["sparse"].outcome == IMPOSSIBLE
    assert said in told["sparse"].missing


def test_a_model_version_that_is_gone_is_named(night, forged) -> None:
    def rename(row) -> None:
        row["model_version"] = 9
        set_lineage(row, model_version=9)

    told = outcomes(night, night.flagged[0], forged(rename))
    assert told["heatmap"].missing == f"{MODEL} version 9 is not registered"


def test_an_old_row_is_replayed_with_the_settings_of_now_only_if_they_give_its_version(night, forged) -> None:
    old = forged(
        lambda row: set_lineage(row, explainer_settings=None, score_batch_size=None, score_batch_position=None)
    )
    told = outcomes(night, night.flagged[0], old)["sparse"]
    assert told.ok
    assert "the settings of sparse are not recorded" in told.assumed[0]
    params = night.home.project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("iterations: 6", "iterations: 7"))
    try:
        settings = load_settings(params)
    finally:
        params.write_text(before)
    told = outcomes(night, night.flagged[0], old, settings)["sparse"]
    assert told.outcome == IMPOSSIBLE
    assert "with the params.yaml of then" in told.missing
    assert outcomes(night, night.flagged[0], settings=settings)["sparse"].outcome == IDENTICAL  # its lineage tells them


def test_what_cannot_be_put_back_is_told_and_allows_small_differences_only(night, forged) -> None:
    def elsewhere(row) -> None:
        libraries = json.loads(row["lineage"])["libraries"]
        set_lineage(row, batch_members="0" * 64, libraries={**libraries, "torch": "0.1"}, device="cuda:7")
        row["score"] += 1e-6

    told = outcomes(night, night.flagged[0], forged(elsewhere))["heatmap"]
    assert told.outcome == WITHIN
    assert set(told.conditions) == {"batch", "torch", "device"}
    assert "0.1 then" in told.conditions["torch"]

    def other_image(row) -> None:
        set_lineage(row, device="cuda:7")
        changed_counterfactual(row)

    assert outcomes(night, night.flagged[0], forged(other_image))["sparse"].outcome == DIFFERS


def test_the_command_answers_row_by_row_and_fails_when_one_does_not_come_out(night, forged, monkeypatch) -> None:
    monkeypatch.setenv("XADFLOW_PROJECT", str(night.home.project))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    run = CliRunner().invoke(audit_commands.audit, ["replay", night.flagged[0][:10]])
    assert run.exit_code == 0, run.output
    assert run.output.count(": identical") == 4
    found = json.loads(CliRunner().invoke(audit_commands.audit, ["replay", night.normal[0], "--json"]).stdout)
    assert (found["ok"], found["image_id"], len(found["rows"])) == (True, night.normal[0], 1)

    store = forged(changed_score)
    monkeypatch.setattr("xadflow.evidence.store.EvidenceStore", lambda *folders: store)
    run = CliRunner().invoke(audit_commands.audit, ["replay", night.flagged[0]])
    assert isinstance(run.exception, AuditFailed)
    assert run.exception.exit_status == 1
    assert "audit verify" in run.exception.next_step
    assert "sparse" in run.output
    assert ": differs" in run.output

    lost = BadWeights("a file is not the one that was registered", seen="donors.json: missing", next_step="-")
    monkeypatch.setattr(
        "xadflow.models.registry.Registry.detector_folder", lambda self, ref: (_ for _ in ()).throw(lost)
    )
    run = CliRunner().invoke(audit_commands.audit, ["replay", night.flagged[0]])
    assert isinstance(run.exception, AuditFailed)
    assert "could be formed again" in run.exception.wrong
    assert "xadflow doctor" in run.exception.next_step
