"""Small trees in the layouts of Cityscapes, StreetHazards, SegmentMeIfYouCan and Fishyscapes, through source and
border.
"""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.checkout import PROJECT
from xadflow.datasets.loading import load_labels, load_masks, training_data
from xadflow.datasets.manifest import Split, read_manifest
from xadflow.datasets.sources.base import Candidate, Refused, open_source
from xadflow.datasets.sources.scenes import LAYOUTS
from xadflow.datasets.stages import build_manifest, collect_images, read_quarantine, write_origin
from xadflow.errors import BadSettings, DataUnavailable
from xadflow.images import VOID
from xadflow.settings import DatasetSettings

# One image, one map of ids, and what each id of it becomes: a class, VOID, or None where it is an anomaly.
CITY = "aachen/aachen_000000_000019"
TREES = {
    "cityscapes": (
        f"leftImg8bit/train/{CITY}_leftImg8bit.png",
        f"gtFine/train/{CITY}_gtFine_labelIds.png",
        {
            0: VOID,
            6: VOID,
            7: 0,
            8: 1,
            9: VOID,
            11: 2,
            12: 3,
            13: 4,
            14: VOID,
            17: 5,
            18: VOID,
            19: 6,
            20: 7,
            21: 8,
            22: 9,
            23: 10,
            24: 11,
            25: 12,
            26: 13,
            27: 14,
            28: 15,
            29: VOID,
            30: VOID,
            31: 16,
            32: 17,
            33: 18,
        },
    ),
    "streethazards": (
        "test/images/test/t5/300.png",
        "test/annotations/test/t5/300.png",
        {1: 0, 2: 1, 3: 2, 4: VOID, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 10: 8, 11: 9, 12: 10, 13: 11, 14: None},
    ),
    "segmentmeifyoucan": (
        "images/validation0000.jpg",
        "labels_masks/validation0000_labels_semantic.png",
        {0: 0, 1: None, 255: VOID},
    ),
    "fishyscapes": (
        "leftImg8bit/test/04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000030_leftImg8bit.png",
        "fishyscapes_lostandfound/0000_04_Maurener_Weg_8_000000_000030_labels.png",
        {0: 0, 1: None, 255: VOID},
    ),
}


def picture(seed: int, suffix: str = ".png") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format={".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[suffix])
    return stream.getvalue()


def ids_png(ids: np.ndarray, dtype: type = np.uint8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(ids.astype(dtype)).save(stream, format="PNG")
    return stream.getvalue()


def strips(ids: list[int]) -> np.ndarray:
    """A map [20,40] with one id a column, the last one to the edge."""
    return np.tile(np.array([ids[min(column, len(ids) - 1)] for column in range(40)]), (20, 1))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def offered(root: Path, layout: str, **options: str) -> tuple[list[Candidate], dict[str, Refused]]:
    settings = DatasetSettings(source="scenes", options={"layout": layout, "folder": str(root), **options})
    everything = list(open_source("roads", settings).candidates())
    return (
        [one for one in everything if isinstance(one, Candidate)],
        {one.path: one for one in everything if isinstance(one, Refused)},
    )


def pixels(content: object) -> np.ndarray:
    assert isinstance(content, bytes)
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("layout", list(TREES))
def test_every_id_of_a_set_becomes_its_class_and_anomalies_a_mask(tmp_path, layout):
    image, labels, meaning = TREES[layout]
    given = strips(list(meaning))
    write(tmp_path, {image: picture(0, Path(image).suffix), labels: ids_png(given)})
    (scene,), refused = offered(tmp_path, layout, licence="ours")
    assert not refused
    expected = np.vectorize(lambda raw: VOID if meaning[raw] is None else meaning[raw])(given)
    assert np.array_equal(pixels(scene.labels), expected)
    anomalous = np.vectorize(lambda raw: meaning[raw] is None)(given)
    assert (scene.label, scene.defect) == ((1, "anomaly") if anomalous.any() else (0, None))
    if anomalous.any():
        assert np.array_equal(pixels(scene.mask) == 255, anomalous)
        assert set(np.unique(pixels(scene.mask))) == {0, 255}
    else:
        assert scene.mask is None
        assert scene.mask_target is None
    assert (scene.target, scene.licence, scene.classes) == (image, "ours", len(LAYOUTS[layout].classes))
    assert scene.content == tmp_path / image


def test_splits_and_places_are_those_of_the_sets(tmp_path):
    street = {
        f"{top}/{kind}/{part}/{town}/{number}.png": picture(number) if kind == "images" else ids_png(strips([1, 2]))
        for number, (top, part, town) in enumerate(
            [("train", "training", "t1"), ("train", "validation", "t4"), ("test", "test", "t5"), ("test", "test", "t6")]
        )
        for kind in ("images", "annotations")
    }
    scenes, refused = offered(write(tmp_path / "street", street), "streethazards")
    assert not refused
    found = [(str(one.split), one.category) for one in scenes]
    assert found == [("test", "t5"), ("test", "t6"), ("train", "t1"), ("val", "t4")]
    city = {
        f"{kind}/{part}/{town}/{town}_0_{name}.png": content
        for part, town in (("train", "aachen"), ("val", "lindau"), ("test", "berlin"))
        for kind, name, content in (
            ("leftImg8bit", "leftImg8bit", picture(len(town))),
            ("gtFine", "gtFine_labelIds", ids_png(strips([7]))),
        )
    }
    scenes, refused = offered(write(tmp_path / "city", city), "cityscapes")
    assert not refused
    assert {(str(one.split), one.category) for one in scenes} == {("train", "aachen"), ("test", "lindau")}
    image, labels, _ = TREES["segmentmeifyoucan"]
    write(tmp_path / "dataset_AnomalyTrack", {image: picture(0, ".jpg"), labels: ids_png(strips([0, 1]))})
    (scene,), _ = offered(tmp_path / "dataset_AnomalyTrack", "segmentmeifyoucan")
    assert (scene.split, scene.category) == (Split.TEST, "dataset_AnomalyTrack")
    image, labels, _ = TREES["fishyscapes"]
    (scene,), _ = offered(write(tmp_path / "laf", {image: picture(0), labels: ids_png(strips([0, 1]))}), "fishyscapes")
    assert (scene.split, scene.category) == (Split.TEST, "04_Maurener_Weg_8")


@pytest.mark.parametrize(
    ("layout", "wrong", "known"),
    [
        ("cityscapes", 34, "0 to 33"),
        ("streethazards", 0, "1 to 14"),
        ("streethazards", 15, "1 to 14"),
        ("segmentmeifyoucan", 2, "0, 1 and 255"),
        ("fishyscapes", 254, "0, 1 and 255"),
    ],
)
def test_an_id_that_the_set_does_not_have_is_said_with_the_file_and_the_known_ones(tmp_path, layout, wrong, known):
    image, labels, meaning = TREES[layout]
    good = next(raw for raw, of_class in meaning.items() if of_class == 0)
    write(tmp_path, {image: picture(0, Path(image).suffix), labels: ids_png(strips([good, wrong, good]))})
    scenes, refused = offered(tmp_path, layout)
    assert not scenes
    assert refused[image].reason == "labels-ids"
    assert refused[image].detail == f"its labels {labels} hold {wrong}; {layout} has {known}"


def test_maps_that_are_no_8_bit_grey_png_are_refused_before_they_are_scaled(tmp_path):
    """Pillow scales 16 bits and single bits, and turns palettes into colours: what comes out are no ids."""
    image, labels, _ = TREES["segmentmeifyoucan"]
    palette = Image.fromarray(strips([0, 1]).astype(np.uint8), mode=None).convert("P")
    stream = io.BytesIO()
    palette.save(stream, format="PNG")
    colour = picture(1)
    wide = ids_png(strips([0, 1]), np.uint16)
    bits = io.BytesIO()
    Image.fromarray(strips([0, 1]).astype(bool)).save(bits, format="PNG")
    for content in (stream.getvalue(), colour, wide, bits.getvalue()):
        write(tmp_path, {image: picture(0, ".jpg"), labels: content})
        scenes, refused = offered(tmp_path, "segmentmeifyoucan")
        assert not scenes
        assert refused[image].reason == "labels-channels"
        assert labels in refused[image].detail


def test_images_and_maps_that_stand_alone_are_refused_and_other_files_left_alone(tmp_path):
    image, labels, _ = TREES["segmentmeifyoucan"]
    write(
        tmp_path,
        {
            image: picture(0, ".jpg"),
            labels: ids_png(strips([0, 1])),
            "images/airplane0000.jpg": picture(1, ".jpg"),
            "images/validation0000.webp": picture(2, ".webp"),
            "labels_masks/gone_labels_semantic.png": ids_png(strips([0])),
            "labels_masks/validation0000_labels_semantic_color.png": picture(3),
            "LICENSE.txt": b"text",
        },
    )
    (scene,), refused = offered(tmp_path, "segmentmeifyoucan")
    assert scene.origin == image
    assert {path: one.reason for path, one in refused.items()} == {
        "images/airplane0000.jpg": "labels-missing",
        "labels_masks/gone_labels_semantic.png": "orphan-labels",
        "images/validation0000.webp": "path-clash",
    }
    assert "not published" in refused["images/airplane0000.jpg"].detail


def test_images_of_lost_and_found_that_fishyscapes_does_not_label_are_no_part_of_it(tmp_path):
    image, labels, _ = TREES["fishyscapes"]
    write(tmp_path, {image: picture(0), labels: ids_png(strips([0, 1])), image.replace("000030", "000040"): picture(1)})
    scenes, refused = offered(tmp_path, "fishyscapes")
    assert [one.origin for one in scenes] == [image]
    assert not refused


def test_links_and_broken_maps_are_refused(tmp_path):
    image, labels, _ = TREES["streethazards"]
    outside = write(tmp_path / "outside", {"t7/1.png": picture(5)})
    root = write(
        tmp_path / "street",
        {
            image: picture(0),
            labels: ids_png(strips([1, 14])),
            image.replace("300", "301"): picture(1),
            labels.replace("300", "301"): b"no picture",
            image.replace("300", "302"): picture(2),
        },
    )
    (root / labels.replace("300", "302")).symlink_to(root / labels)
    (root / "test/images/test/t7").symlink_to(outside / "t7")
    scenes, refused = offered(root, "streethazards")
    assert [one.origin for one in scenes] == [image]
    assert {path: one.reason for path, one in refused.items()} == {
        image.replace("300", "301"): "labels-not-an-image",
        image.replace("300", "302"): "labels-link",
        "test/images/test/t7": "link",
    }


def test_a_folder_in_another_layout_is_answered_with_what_is_expected(tmp_path):
    image, labels, _ = TREES["cityscapes"]
    write(tmp_path, {image: picture(0), labels: ids_png(strips([7]))})
    with pytest.raises(
        DataUnavailable, match=r"layout streethazards; expected train/images.*gtFine.*datasets.roads.options"
    ):
        offered(tmp_path, "streethazards")
    with pytest.raises(DataUnavailable, match="'roads' is not there"):
        offered(tmp_path / "gone", "cityscapes")
    with pytest.raises(BadSettings, match=r"options\.layout"):
        offered(tmp_path, "camvid")


def test_a_set_becomes_a_data_set_with_labels_and_masks_to_learn_from(tmp_path, home, settings_with):
    rng = np.random.default_rng(0)
    files = {}
    for number in range(30):
        top, part, town = [("train", "training", "t1"), ("train", "validation", "t4"), ("test", "test", "t5")][
            number % 3
        ]
        ids = rng.integers(1, 14, (20, 40))
        if part == "test" and number % 2:
            ids[5:15, 10:20] = 14
        files[f"{top}/images/{part}/{town}/{number}.png"] = picture(number)
        files[f"{top}/annotations/{part}/{town}/{number}.png"] = ids_png(ids)
    files["test/annotations/test/t5/2.png"] = ids_png(np.full((20, 40), 99))
    root = write(tmp_path / "street", files)
    settings = settings_with(
        "scenes", options={"layout": "streethazards", "folder": str(root)}, classes=LAYOUTS["streethazards"].classes
    )
    write_origin(home, settings, "bolt")
    collect_images(home, settings, "bolt")
    rows = build_manifest(home, settings, "bolt")
    assert len(rows) == 29
    assert [(one.path, one.reason) for one in read_quarantine(home, "bolt")] == [
        ("test/images/test/t5/2.png", "labels-ids")
    ]
    manifest = read_manifest(home.dataset("bolt"))
    dataset = settings.dataset("bolt")
    data = training_data(manifest, dataset)
    assert data.labels.shape == (10, 32, 32)
    assert set(data.labels.unique().tolist()) <= {*range(12), VOID}
    anomalous = manifest.rows(Split.TEST, Split.GATE, label=1)
    masks = load_masks(manifest, anomalous, dataset)
    assert len(anomalous) == 5
    assert (load_labels(manifest, anomalous, dataset)[masks] == VOID).all()
    assert 0.1 < masks.float().mean() < 0.15, "100 of 800 pixels"


def test_the_origin_changes_with_the_files(tmp_path):
    image, labels, _ = TREES["cityscapes"]
    write(tmp_path, {image: picture(0), labels: ids_png(strips([7]))})
    options = {"layout": "cityscapes", "folder": str(tmp_path)}
    source = open_source("roads", DatasetSettings(source="scenes", options=options))
    before = source.origin()
    assert source.origin() == before
    write(tmp_path, {labels: ids_png(strips([7, 8]))})
    assert source.origin() != before


def test_the_how_to_names_the_classes_of_each_layout_in_their_order(tmp_path):
    page = (PROJECT / "docs/how-to/read-published-scenes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    named = {name: DatasetSettings.model_validate(entry) for name, entry in yaml.safe_load(block)["datasets"].items()}
    assert {one.options["layout"]: one.classes for one in named.values()} == {
        name: layout.classes for name, layout in LAYOUTS.items()
    }
    for name, dataset in named.items():
        with pytest.raises(
            DataUnavailable, match=f"{name!r} is not there"
        ):  # options are taken; only the folder is missing
            open_source(name, dataset).origin()
