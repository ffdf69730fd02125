import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from xadflow.datasets.loading import load_images, load_masks, training_data
from xadflow.datasets.manifest import SCHEMA, Manifest, Split, read_manifest
from xadflow.datasets.stages import build_manifest, collect_images
from xadflow.errors import BadImage, BadManifest
from xadflow.settings import DatasetSettings

DATASET = DatasetSettings(source="folder", size_px=16, channels=3, known_used=2)


@pytest.fixture
def manifest(home, product, settings_with) -> Manifest:
    settings = settings_with(options={"path": str(product), "known_per_defect": 5})
    collect_images(home, settings, "bolt")
    build_manifest(home, settings, "bolt")
    return read_manifest(home.dataset("bolt"))


def test_images_come_in_the_order_of_the_rows_resized_as_pillow_does(manifest: Manifest) -> None:
    rows = manifest.rows(Split.TEST)[::-1]
    images = load_images(manifest, rows, DATASET)
    assert images.dtype == torch.uint8
    assert images.shape == (len(rows), 3, 16, 16)
    for image, row in zip(images, rows, strict=True):
        expected = Image.open(manifest.path_of(row)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        assert (image.numpy() == np.asarray(expected).transpose(2, 0, 1)).all()


def test_progress_is_reported_and_no_rows_are_no_images(manifest: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    load_images(manifest, manifest.rows(Split.GATE), DATASET, lambda *at: seen.append(at))
    count = len(manifest.rows(Split.GATE))
    assert seen == [(done, count) for done in range(1, count + 1)]
    assert load_images(manifest, [], DATASET).shape == (0, 3, 16, 16)


def test_masks_are_true_where_the_file_is_not_zero_and_empty_for_normals(manifest: Manifest) -> None:
    rows = manifest.rows(Split.KNOWN) + manifest.rows(Split.VAL)[:1]
    masks = load_masks(manifest, rows, DATASET.model_copy(update={"size_px": 32}))
    assert masks.dtype == torch.bool
    file = np.asarray(Image.open(manifest.mask_of(rows[0])).resize((32, 32), Image.Resampling.NEAREST)) > 0
    assert (masks[0].numpy() == file).all()
    assert masks[0].any()
    assert not masks[-1].any()


def test_training_data_is_train_and_val_normals_and_the_first_known_defects(manifest: Manifest) -> None:
    data = training_data(manifest, DATASET)
    normals, val = manifest.rows(Split.TRAIN, label=0), manifest.rows(Split.VAL, label=0)
    known = manifest.rows(Split.KNOWN)
    assert [len(part) for part in (data.normals, data.val_normals, data.known, data.calibration_defects)] == [
        len(normals),
        len(val),
        2,
        3,
    ]
    assert (data.normals == load_images(manifest, normals, DATASET)).all()
    assert (data.val_normals == load_images(manifest, val, DATASET)).all()
    assert (data.known == load_images(manifest, known[:2], DATASET)).all()
    assert (data.calibration_defects == load_images(manifest, known[2:], DATASET)).all()
    assert data.known_masks is not None
    assert (data.known_masks == load_masks(manifest, known[:2], DATASET)).all()


def test_known_defects_without_masks_or_none_used_give_no_masks(manifest: Manifest) -> None:
    assert training_data(manifest, DATASET.model_copy(update={"known_used": 0})).known_masks is None
    rows = [{**row, "mask_path": None} for row in manifest.table.to_pylist()]
    bare = Manifest(manifest.folder, pa.Table.from_pylist(rows, schema=SCHEMA))
    assert training_data(bare, DATASET).known_masks is None
    with pytest.raises(BadManifest, match="has no mask"):
        load_masks(bare, bare.rows(Split.KNOWN), DATASET)


def test_a_missing_or_changed_file_is_named(manifest: Manifest) -> None:
    rows = manifest.rows(Split.TEST)
    path = manifest.path_of(rows[0])
    path.unlink()
    with pytest.raises(BadImage, match=rows[0].path):
        load_images(manifest, rows, DATASET)
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, format="PNG")
    path.write_bytes(stream.getvalue())
    with pytest.raises(BadImage, match="other bytes") as refusal:
        load_images(manifest, rows, DATASET)
    assert rows[0].path in refusal.value.wrong
    assert "dvc checkout" in refusal.value.next_step


def test_outliers_are_the_train_images_of_another_data_set_that_are_not_here_too(manifest: Manifest) -> None:
    train = manifest.rows(Split.TRAIN, label=0)
    gone = {row.image_id for row in train[:3]}
    own = Manifest(
        manifest.folder, manifest.table.filter([row not in gone for row in manifest.table["image_id"].to_pylist()])
    )
    data = training_data(own, DATASET, outliers=manifest)
    assert (data.outliers == load_images(manifest, train[:3], DATASET)).all()
    assert len(data.normals) == len(train) - 3
    assert len(training_data(own, DATASET).outliers) == 0
    with pytest.raises(BadManifest, match="no train image of its own"):
        training_data(manifest, DATASET, outliers=own)


def test_what_raised_limits_let_in_is_loaded_and_nothing_larger_put_in_its_place(home, product, settings_with) -> None:
    long = io.BytesIO()
    Image.fromarray(np.zeros((2, 20_001), np.uint8)).save(long, format="PNG")  # over the default of 20,000 px
    (product / "train" / "good" / "long.png").write_bytes(long.getvalue())
    settings = settings_with(options={"path": str(product), "known_per_defect": 5})
    limits = settings.limits.model_copy(update={"max_side_px": 30_000})
    collect_images(home, settings.model_copy(update={"limits": limits}), "bolt")
    build_manifest(home, settings, "bolt")
    manifest = read_manifest(home.dataset("bolt"))
    (row,) = [row for row in manifest.rows() if row.width == 20_001]
    assert load_images(manifest, [row], DATASET).shape == (1, 3, 16, 16)
    known = manifest.rows(Split.KNOWN)[:1]
    manifest.mask_of(known[0]).write_bytes(long.getvalue())
    with pytest.raises(BadImage, match="too many pixels; got '20001x2'"):
        load_masks(manifest, known, DATASET)
