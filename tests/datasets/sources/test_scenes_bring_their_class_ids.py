"""Scenes: a map of class ids beside each image, through border, manifest, expectations and loading."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from xadflow.datasets.border import admit
from xadflow.datasets.loading import load_labels, training_data
from xadflow.datasets.manifest import SCENES_SCHEMA, SCHEMA, Split, read_manifest, write_manifest
from xadflow.datasets.quality import validate_manifest
from xadflow.datasets.sources.base import Candidate
from xadflow.errors import BadManifest, ValidationFailed
from xadflow.images import VOID, ImageLimits, stored_png
from xadflow.settings import DatasetSettings

SCENES = DatasetSettings(source="folder", size_px=16, channels=1, known_used=0, classes=("road", "sky"))


def a_scene(number, split=Split.TRAIN, labels=None, label=0, size=(24, 32)):
    rng = np.random.default_rng(number)
    ids = rng.integers(0, 2, size).astype(np.uint8) if labels is None else labels
    mask = np.zeros(size, dtype=np.uint8)
    mask[4:12, 8:20] = 255
    name = f"{split}/{number:03d}.png"
    return Candidate(
        origin=name,
        target=name,
        content=stored_png(rng.integers(0, 256, size).astype(np.uint8)),
        split=split,
        label=label,
        category="town",
        defect="thing" if label else None,
        source="drawn",
        licence="none",
        labels=stored_png(ids),
        labels_target=f"labels/{name}",
        classes=2,
        mask=stored_png(mask) if label else None,
        mask_target=f"masks/{name}" if label else None,
    )


@pytest.fixture
def folder(tmp_path):
    offered = [
        *(a_scene(n) for n in range(4)),
        *(a_scene(n, Split.VAL) for n in range(4, 7)),
        *(a_scene(n, Split.TEST, label=n % 2) for n in range(7, 11)),
    ]
    write_manifest(tmp_path / "manifest.parquet", admit(offered, tmp_path / "images", ImageLimits()).rows)
    return tmp_path


def test_class_ids_are_loaded_without_new_ids_and_anomalies_are_void(folder):
    manifest = read_manifest(folder)
    rows = manifest.rows(Split.TEST)
    labels = load_labels(manifest, rows, SCENES)
    assert (labels.dtype, labels.shape) == (torch.uint8, (4, 16, 16))
    for row, ids in zip(rows, labels.numpy(), strict=True):
        small = np.asarray(Image.open(manifest.labels_of(row)).resize((16, 16), Image.Resampling.NEAREST))
        hidden = np.zeros((16, 16), dtype=bool)
        if row.mask_path:
            hidden = np.asarray(Image.open(manifest.mask_of(row)).resize((16, 16), Image.Resampling.NEAREST)) > 0
            assert hidden.any()
        assert (ids[~hidden] == small[~hidden]).all()
        assert (ids[hidden] == VOID).all()
    data = training_data(manifest, SCENES)
    assert (data.labels.shape, data.val_labels.shape, data.classes) == ((4, 16, 16), (3, 16, 16), ("road", "sky"))
    plain = training_data(manifest, SCENES.model_copy(update={"classes": ()}))
    assert (plain.labels, plain.val_labels, plain.classes) == (None, None, ())


def test_only_manifests_of_scenes_have_the_column(folder):
    assert pq.read_schema(folder / "manifest.parquet").names == SCENES_SCHEMA.names
    rows = [row.__class__(**{**vars(row), "labels_path": None}) for row in read_manifest(folder).rows()]
    write_manifest(folder / "plain/manifest.parquet", rows)
    assert pq.read_schema(folder / "plain/manifest.parquet").names == SCHEMA.names
    with pytest.raises(BadManifest, match="a scene has no map of class ids"):
        load_labels(read_manifest(folder / "plain"), rows[:1], SCENES)


def test_a_class_that_params_do_not_name_is_said_with_its_id(folder):
    manifest = read_manifest(folder)
    one_class = SCENES.model_copy(update={"classes": ("road",)})
    with pytest.raises(
        BadManifest, match=r"names a class that params.yaml does not.*1, classes: 1.*complete `classes`"
    ):
        load_labels(manifest, manifest.rows(Split.TRAIN), one_class)


WRONG = {
    "labels-ids": np.full((24, 32), 2, dtype=np.uint8),
    "labels-size": np.zeros((24, 31), dtype=np.uint8),
    "labels-channels": None,
    "labels-not-an-image": b"no image",
    "labels-empty": b"",
}


@pytest.mark.parametrize("reason", list(WRONG))
def test_wrong_class_ids_are_quarantined_with_their_reason_and_nothing_is_written(tmp_path, reason):
    given = WRONG[reason]
    sound = a_scene(0)
    if reason == "labels-channels":
        colours = tmp_path / "colours.png"
        Image.fromarray(np.zeros((24, 32, 3), dtype=np.uint8)).save(colours)
        given = colours.read_bytes()
    content = given if isinstance(given, bytes) else stored_png(given)
    admission = admit([sound.__class__(**{**vars(sound), "labels": content})], tmp_path / "images", ImageLimits())
    assert [row.reason for row in admission.refused] == [reason]
    assert not list((tmp_path / "images").rglob("*.png"))
    if reason == "labels-ids":
        assert "hold 2, expected 0 to 1, or 255" in admission.refused[0].detail


def test_void_is_no_wrong_id_and_a_path_out_of_the_folder_is(tmp_path):
    nobody = a_scene(0, labels=np.full((24, 32), VOID, dtype=np.uint8))
    escaping = a_scene(1)
    escaping = escaping.__class__(**{**vars(escaping), "labels_target": "../outside.png"})
    admission = admit([nobody, escaping], tmp_path / "images", ImageLimits())
    assert len(admission.rows) == 1
    assert [row.reason for row in admission.refused] == ["labels-path"]
    assert not (tmp_path / "outside.png").exists()


def test_the_expectations_want_a_map_for_every_scene_and_a_mask_for_every_anomalous_one(folder):
    table = read_manifest(folder).table
    with pytest.raises(ValidationFailed) as failed:
        validate_manifest(table.drop_columns(["labels_path"]), SCENES)
    assert "every scene has a map of class ids" in str(failed.value)
    without = table.set_column(
        table.schema.get_field_index("mask_path"), SCHEMA.field("mask_path"), pa.nulls(table.num_rows, pa.string())
    )
    with pytest.raises(ValidationFailed) as failed:
        validate_manifest(without, SCENES)
    assert "every anomalous scene has a mask" in str(failed.value)
    assert "every scene has a map" not in str(failed.value)


def test_a_twin_of_a_scene_takes_its_class_ids_along(tmp_path):
    first, second = a_scene(0), a_scene(0, Split.TEST)
    admission = admit([first, second], tmp_path / "images", ImageLimits())
    assert [row.split for row in admission.rows] == [str(Split.TEST)]
    assert not (tmp_path / "images/labels/train/000.png").exists()
    assert (tmp_path / "images/labels/test/000.png").is_file()
