from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_store import MODEL, Store

from xadflow.cards import MOST_BYTES, checked_calibration, checked_shape, read_card
from xadflow.errors import BadWeights
from xadflow.models.registry import Registry
from xadflow.models.tags import EXPLAINS_VERSION, FILES, GATE_REASONS, PREVIOUS
from xadflow.models.versions import ModelRef, check_files

GOOD = "0" * 64


@pytest.fixture
def registered(store: Store) -> Iterator[Callable[..., ModelRef]]:
    """Registers a version with these tags in place of the first one's, from `source` if named; gone afterwards."""
    client, made = store.registry._client, list[str]()
    first = client.get_model_version(MODEL, str(store.ref.version))

    def register(changed: dict[str, str | None], source: str | None = None) -> ModelRef:
        tags = {name: value for name, value in {**first.tags, **changed}.items() if value is not None}
        made.append(client.create_model_version(MODEL, source or first.source, store.ref.run_id, tags=tags).version)
        return store.registry.resolve(f"{MODEL}/{made[-1]}")

    yield register
    for version in made:
        client.delete_model_version(MODEL, version)


@pytest.mark.parametrize(
    "tag",
    [
        None,
        "",
        "{}",
        "[]",
        "null",
        "not JSON",
        "[" * 4000,
        json.dumps({"detector.json": GOOD}),
        json.dumps({"weights.safetensors": GOOD}),
        json.dumps({"detector.json": 1, "weights.safetensors": None}),
        json.dumps({"detector.json": GOOD, "weights.safetensors": "short"}),
        json.dumps({"detector.json": GOOD, "weights.safetensors": GOOD, "../../secret.json": GOOD}),
        json.dumps({"detector.json": GOOD, "weights.safetensors": GOOD, "/etc/secret.json": GOOD}),
    ],
)
def test_a_tag_that_does_not_cover_the_files_loads_nothing(store: Store, tag: str | None) -> None:
    ref = ModelRef(MODEL, 9, "run", {} if tag is None else {FILES: tag})
    with pytest.raises(BadWeights, match="was not registered with the digests of the files it needs") as refused:
        check_files(store.saved, ref)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


def test_such_a_version_is_refused_through_mlflow_too(store: Store, registered: Callable[..., ModelRef]) -> None:
    for tag in (None, "{}"):
        with pytest.raises(BadWeights, match="was not registered"):
            store.registry.detector_folder(registered({FILES: tag}))
    assert store.registry.find_trained(MODEL, "key-1") == store.ref  # the newest whole one


@pytest.mark.parametrize("name", ["donors.json", "deep/more.safetensors", "EXTRA.JSON"])
def test_a_file_that_was_not_registered_is_named(store: Store, tmp_path: Path, name: str) -> None:
    shutil.copytree(store.saved, tmp_path / "saved")
    check_files(tmp_path / "saved", store.ref)
    (tmp_path / "saved" / ".DS_Store").touch()  # nobody reads it
    check_files(tmp_path / "saved", store.ref)
    (tmp_path / "saved" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "saved" / name).write_text("{}")
    with pytest.raises(BadWeights, match=f"a file lies with .*{name}"):
        check_files(tmp_path / "saved", store.ref)


def test_a_strangers_folder_is_not_opened(store: Store, registered: Callable[..., ModelRef], tmp_path: Path) -> None:
    first = store.registry.detector_folder(store.ref)
    shutil.copytree(first.parents[1], tmp_path / "evil")
    for source in (tmp_path / "evil", tmp_path / "not there", store.registry.artifacts, Path("/")):
        ref = registered({}, source.as_uri())  # with tags that fit its files
        with pytest.raises(BadWeights, match="not below mlartifacts"):
            store.registry.detector_folder(ref)


def test_other_malformed_tags_are_read_as_none(store: Store, registered: Callable[..., ModelRef]) -> None:
    for odd in ("x", "-1", "1" * 5000, "²", "1.5"):
        ref = ModelRef(MODEL, 1, "run", {EXPLAINS_VERSION: odd})
        assert ref.explains is not None
        assert ref.explains.version == 0
    for odd in ("x", "{", "1", "[" * 4000):
        assert ModelRef(MODEL, 1, "run", {GATE_REASONS: odd}).gate_reasons == ()
    registered({EXPLAINS_VERSION: "x", GATE_REASONS: "{"})
    assert MODEL in [one.name for one in store.registry.models()]


@pytest.mark.parametrize("value", ["x", "", "1e3", "-1"])
def test_a_malformed_previous_champion_is_none(store: Store, value: str) -> None:
    from xadflow.errors import NoChampion

    registry: Registry = store.registry
    registry._client.set_registered_model_tag(MODEL, PREVIOUS, value)
    try:
        with pytest.raises(NoChampion, match="models promote"):
            registry.previous_champion(MODEL)
    finally:
        registry._client.delete_registered_model_tag(MODEL, PREVIOUS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "null",
        "{" * 100_000,
        '{"a":' * 100_000,
        '{"threshold": NaN}',
        '{"threshold": Infinity}',
        '{"a": [{"b": -Infinity}]}',
        '{"a": 1e999}',
        f'{{"a": {"9" * 5000}}}',
        '{"a": "\\ud800"',
        " " * (MOST_BYTES + 1),
    ],
)
def test_a_card_that_is_no_card_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "detector.json").write_text(text)
    with pytest.raises(BadWeights, match="card cannot be used") as refused:
        read_card(tmp_path / "detector.json")
    assert len(str(refused.value)) < 400


FINE = {"threshold": 0.5, "temperature": 0.1, "false_alarm_rate": 0.05}


@pytest.mark.parametrize(
    "odd",
    [
        {"threshold": None},
        {"threshold": "1"},
        {"threshold": True},
        {"threshold": [1]},
        {"temperature": 0},
        {"temperature": -1.0},
        {"false_alarm_rate": 0.0},
        {"false_alarm_rate": 1},
    ],
)
def test_a_calibration_that_decides_nothing_is_refused(tmp_path: Path, odd: dict[str, object]) -> None:
    checked_calibration({"calibration": FINE}, tmp_path)
    checked_calibration({}, tmp_path)  # another package's card
    with pytest.raises(BadWeights, match=f"calibration.{next(iter(odd))}"):
        checked_calibration({"calibration": {**FINE, **odd}}, tmp_path)


@pytest.mark.parametrize(
    "shape", [[3, 100_000, 100_000], [1, -8, 8], [1, 0, 8], [8, 8], [1, 8.0, 8], "888", [True, 8, 8], {"0": 1}]
)
def test_a_shape_that_no_image_has_is_refused(tmp_path: Path, shape: object) -> None:
    checked_shape({"input_shape": [3, 512, 24_000]}, tmp_path)
    for name in ("input_shape", "shape"):
        with pytest.raises(BadWeights, match=name):
            checked_shape({name: shape}, tmp_path)
