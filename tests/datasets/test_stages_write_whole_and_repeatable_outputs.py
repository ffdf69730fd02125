import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from xadflow.datasets import stages
from xadflow.datasets.manifest import ManifestRow, read_manifest
from xadflow.datasets.stages import build_manifest, carve, collect_images, write_origin
from xadflow.datasets.writing import writing
from xadflow.digests import sha256_bytes, sha256_file
from xadflow.errors import BadManifest, CannotWrite, DataUnavailable, UnknownName
from xadflow.settings import DatasetSettings, Home


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def build(home: Home, settings) -> dict[str, bytes]:
    write_origin(home, settings, "bolt")
    collect_images(home, settings, "bolt")
    build_manifest(home, settings, "bolt")
    return contents(home.project)


@pytest.mark.parametrize("source", ["folder", "textures"])
def test_two_builds_give_the_same_bytes_whatever_the_number_of_threads(
    source, tmp_path, product, settings_with, put, monkeypatch
) -> None:
    put(product / "test/good/broken.png", b"broken")
    options = {"path": str(product)} if source == "folder" else {"texture": "gravel", "train": 12, "val": 6, "test": 6}
    settings = settings_with(source, options=options)
    first = build(Home(tmp_path / "one", tmp_path / "var"), settings)
    monkeypatch.setattr("xadflow.datasets.border._WORKERS", 1)
    second = build(Home(tmp_path / "two", tmp_path / "var"), settings)
    assert first == second
    again = build(Home(tmp_path / "two", tmp_path / "var"), settings)
    assert again == first


def test_manifest_rows_say_what_the_files_are(home, product, settings_with, put) -> None:
    put(product / "train/good/broken.png", b"broken")
    build(home, settings_with(options={"path": str(product), "licence": "ours"}))
    manifest = read_manifest(home.dataset("bolt"))
    for row in manifest.rows():
        assert sha256_file(manifest.path_of(row)) == row.image_id
        assert (row.width, row.height, row.licence, row.category) == (32, 24, "ours", "bolt")
        assert (row.mask_path is not None) == (row.label == 1)
        assert row.mask_path is None or manifest.mask_of(row).is_file()
    counts = Counter((row.split, row.label) for row in manifest.rows())
    assert counts["train", 0] + counts["val", 0] == 30
    assert counts["test", 0] + counts["gate", 0] == 6
    assert counts["test", 1] + counts["gate", 1] == 8
    assert min(counts.values()) >= 1
    (refused,) = pq.read_table(home.dataset("bolt") / "quarantine.parquet").to_pylist()
    assert (refused["path"], refused["reason"]) == ("train/good/broken.png", "not-an-image")


def row(number: int, split: str = "train", label: int = 0) -> ManifestRow:
    image_id = sha256_bytes(f"{number}".encode())
    return ManifestRow(
        image_id, f"images/{number}.png", split, label, "c", "d" if label else None, None, 1, 1, "s", "l"
    )


def splits(rows: list[ManifestRow]) -> dict[str, str]:
    return {one.image_id: one.split for one in rows}


def test_carving_depends_on_an_images_own_bytes_so_adding_images_moves_no_other() -> None:
    dataset = DatasetSettings(source="folder", val_share=0.2, gate_share=0.3)
    some = [row(n) for n in range(300)] + [row(n, "test", n % 2) for n in range(300, 500)]
    more = some + [row(n) for n in range(1000, 1100)] + [row(n, "test", n % 2) for n in range(1100, 1200)]
    small, large = splits(carve(some, dataset)), splits(carve(more, dataset))
    assert {image_id: large[image_id] for image_id in small} == small
    counts = Counter(large.values())
    assert counts["val"] == pytest.approx(80, abs=24)  # 400 x .2, three standard deviations
    assert counts["gate"] == pytest.approx(90, abs=24)
    assert splits(carve([replace(one, path="images/elsewhere.png") for one in some], dataset)) == small


def test_both_sides_of_every_carving_keep_an_image_of_each_kind() -> None:
    for seed in range(30):
        rows = [row(seed * 100 + n) for n in range(4)] + [row(seed * 100 + 50 + n, "test", n % 2) for n in range(4)]
        counts = Counter(
            (one.split, one.label) for one in carve(rows, DatasetSettings(source="folder", gate_share=0.1))
        )
        assert all(
            counts[key] for key in (("train", 0), ("val", 0), ("test", 0), ("test", 1), ("gate", 0), ("gate", 1))
        )


def test_without_normal_test_images_some_train_normals_are_held_out() -> None:
    rows = [row(n) for n in range(200)] + [row(n, "test", 1) for n in range(200, 220)]
    counts = Counter((one.split, one.label) for one in carve(rows, DatasetSettings(source="folder")))
    assert counts["test", 0] + counts["gate", 0] == pytest.approx(40, abs=17)
    assert counts["gate", 0] >= 1


def test_splits_that_a_source_gives_are_kept() -> None:
    rows = [row(n, split) for n, split in enumerate(["train"] * 20 + ["val"] * 3 + ["test"] * 5)]
    after = splits(carve(rows, DatasetSettings(source="textures")))
    assert [one.image_id for one in rows if one.split == "val"] == [
        key for key, value in after.items() if value == "val"
    ]


def test_a_folder_without_one_usable_image_is_refused_and_leaves_nothing(home, product, settings_with) -> None:
    for path in product.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataUnavailable, match="no image") as refusal:
        collect_images(home, settings_with(options={"path": str(product)}), "bolt")
    assert refusal.value.seen == {"empty": 44}
    assert not list(home.dataset("bolt").iterdir())


def test_an_unknown_data_set_and_a_manifest_without_images_name_the_next_step(home, settings_with) -> None:
    settings = settings_with(options={"path": "nowhere"})
    with pytest.raises(UnknownName, match="'bolt'"):
        collect_images(home, settings, "blot")
    with pytest.raises(BadManifest, match="dvc repro manifest@bolt"):
        build_manifest(home, settings, "bolt")


def test_a_failed_collection_leaves_the_former_images_as_they_were(home, product, settings_with, monkeypatch) -> None:
    settings = settings_with(options={"path": str(product)})
    collect_images(home, settings, "bolt")
    before = contents(home.dataset("bolt"))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("xadflow.datasets.border._write", full_disk)
        with pytest.raises(CannotWrite, match="No space left on device.*free some space"):
            collect_images(home, settings, "bolt")
    assert not (home.dataset("bolt") / ".images.partial").exists()  # what is half written would be in the way
    after = {name: content for name, content in contents(home.dataset("bolt")).items() if name.startswith("images/")}
    assert after == before
    collect_images(home, settings, "bolt")
    assert contents(home.dataset("bolt")) == before


def test_a_full_disk_and_a_read_only_one_are_told_apart_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="no room; got 'No space left on device'"), writing("the manifest"):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(CannotWrite, match="not allowed; got 'Read-only file system'"), writing("the manifest"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(FileNotFoundError), writing("the manifest"):
        (tmp_path / "gone" / "x").write_bytes(b"x")


def test_a_killed_collection_leaves_no_half_written_images(home, product, settings_with) -> None:
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from xadflow.datasets import border, stages
        from xadflow.settings import DatasetSettings, Home, Settings
        write, written = border._write, []
        def slow_death(path, content):
            written.append(path)
            if len(written) > 9:
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, content)
        border._write = slow_death
        settings = Settings.model_validate({settings_with(options={"path": str(product)}).model_dump()!r})
        stages.collect_images(Home(Path({str(home.project)!r}), Path({str(home.state)!r})), settings, "bolt")
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    assert not (home.dataset("bolt") / "images").exists()
    collect_images(home, settings_with(options={"path": str(product)}), "bolt")
    assert sorted(path.name for path in home.dataset("bolt").iterdir()) == ["images"]


def test_validation_json_is_repeatable_and_absent_after_a_failure(home, product, settings_with) -> None:
    settings = settings_with(options={"path": str(product)}, val_share=0.3)
    build(home, settings)
    path = home.dataset("bolt") / stages.VALIDATION
    summary = stages.validate_dataset(home, settings, "bolt")
    first = path.read_bytes()
    assert json.loads(first) == json.loads(json.dumps(summary))
    stages.validate_dataset(home, settings, "bolt")
    assert path.read_bytes() == first
    from xadflow.errors import ValidationFailed

    with pytest.raises(ValidationFailed, match="enough images"):
        stages.validate_dataset(home, settings_with(options={"path": str(product)}, known_used=5), "bolt")
    assert not path.exists()


@pytest.mark.parametrize("what", ["moved away", "a file in its place", "a link to nothing"])
def test_what_was_pulled_is_used_where_its_folder_is_not(home, product, settings_with, what) -> None:
    settings = settings_with(options={"path": str(product)})
    assert write_origin(home, settings, "bolt") is None
    path = home.dataset(".origin") / "bolt.json"
    before = path.read_bytes()
    product.rename(product.with_name("elsewhere"))
    if what == "a file in its place":
        product.touch()
    elif what == "a link to nothing":
        product.symlink_to("nowhere")
    note = write_origin(home, settings, "bolt")
    assert note is not None
    assert "is not there" in note
    assert "pulled before is used" in note
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [None, "", "{", "[]", '{"source": "folder"}', '{"source": "elpv", "origin": "x"}'])
def test_without_what_was_pulled_the_absent_folder_is_said(home, product, settings_with, kept) -> None:
    path = home.dataset(".origin") / "bolt.json"
    if kept is not None:
        path.parent.mkdir(parents=True)
        path.write_text(kept)
    settings = settings_with(options={"path": str(product / "gone")})
    with pytest.raises(DataUnavailable, match=r"is not there.*restore it.*dvc pull --allow-missing"):
        write_origin(home, settings, "bolt")
    assert path.exists() == (kept is not None)


def test_a_package_that_is_not_there_is_a_note_too(home, settings_with, monkeypatch) -> None:
    settings = settings_with("elpv", options={})
    monkeypatch.setattr(stages, "open_source", lambda *_: _Source(None))
    write_origin(home, settings, "bolt")
    missing = DataUnavailable("the package elpv-dataset is not installed", seen="nothing", next_step="run `make setup`")
    monkeypatch.setattr(stages, "open_source", lambda *_: _Source(missing))
    assert "elpv-dataset is not installed" in str(write_origin(home, settings, "bolt"))


class _Source:
    def __init__(self, err: Exception | None) -> None:
        self._err = err

    def origin(self) -> str:
        if self._err:
            raise self._err
        return "sha256 of a package"
