from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_store import MODEL, Store, training

from xadflow.errors import BadWeights, NoChampion, UnknownName, WrongUse
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.service import explainer_in_service, put_in_service, roll_back, why_none
from xadflow.models.tags import GATE, PASSED
from xadflow.models.versions import Explains, ModelRef

EXPLAINER = f"{MODEL}.twice"


def register(store: Store, folder: Path, detector: ModelRef, weights: str | None = None) -> ModelRef:
    """An explainer's version that explains this detector version."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.full((1,), float(detector.version))}, folder / "generator.safetensors")
    (folder / "explainer.json").write_text(json.dumps({"explainer": "twice"}))
    of = Explains(detector.version, weights or detector.as_explained.weights)
    order: dict[str, Any] = {
        "model_name": EXPLAINER,
        "folder": folder,
        "input_shape": None,
        "explains": of,
        "metrics": {},
        "history": [],
        "figures": {},
        "params": {},
    }
    tags = {"xadflow.training_key": f"twice-{detector.version}", GATE: PASSED}
    return store.registry.log_training(**training(folder, folder, **order, tags=tags))


@pytest.fixture
def pair(store: Store, second_version: int, tmp_path: Path) -> Iterator[tuple[ModelRef, ModelRef]]:
    """Explainer versions of detector versions 1 and 2, both passed; no alias anywhere."""
    registry = store.registry
    found = [register(store, tmp_path / str(n), registry.resolve(f"{MODEL}/{n}")) for n in (1, second_version)]
    yield found[0], found[1]
    for one in registry.versions(EXPLAINER):
        registry._client.delete_model_version(EXPLAINER, str(one.version))
    registry._client.delete_registered_model(EXPLAINER)


def champions(registry: Registry) -> tuple[int | None, int | None]:
    """Version of the detector and of its explainer in service."""
    found = [registry.alias(name, CHAMPION) for name in (MODEL, EXPLAINER)]
    return tuple(None if one is None else one.version for one in found)


def test_its_files_come_back_and_are_no_detector(store: Store, pair) -> None:
    folder = store.registry.explainer_folder(pair[0])
    assert {path.name for path in folder.iterdir()} == {"explainer.json", "generator.safetensors"}
    with pytest.raises(WrongUse, match=f"name its detector, {MODEL}"):
        store.registry.detector_folder(pair[0])
    (folder / "generator.safetensors").write_bytes(b"other")
    with pytest.raises(BadWeights, match="not the one that was registered"):
        store.registry.explainer_folder(pair[0])


def test_promotion_and_rollback_take_the_explainer_along(store: Store, second_version: int, pair) -> None:
    first, second = pair
    moved = put_in_service(store.registry, MODEL, 1)
    assert (moved.before, moved.explainers) == (None, {EXPLAINER: first.version})
    assert champions(store.registry) == (1, first.version)
    assert put_in_service(store.registry, MODEL, second_version).before == 1
    assert champions(store.registry) == (second_version, second.version)
    assert roll_back(store.registry, MODEL).version == 1
    assert champions(store.registry) == (1, first.version)
    assert roll_back(store.registry, MODEL).version == second_version


@pytest.mark.parametrize("verdict", ["refused", None])
def test_what_did_not_pass_the_gate_stays_out_and_the_old_one_leaves(
    store: Store, second_version: int, pair, verdict
) -> None:
    first, second = pair
    put_in_service(store.registry, MODEL, 1)
    if verdict is None:
        store.registry._client.delete_model_version_tag(EXPLAINER, str(second.version), GATE)
    else:
        store.registry.tag(EXPLAINER, second.version, GATE, verdict)
    moved = put_in_service(store.registry, MODEL, second_version)
    assert moved.explainers == {EXPLAINER: None}
    assert champions(store.registry) == (second_version, None)
    detector = store.registry.champion(MODEL)
    assert explainer_in_service(store.registry, detector, "twice") is None
    assert ("The gate refused" if verdict else "not been through the gate") in why_none(
        store.registry, detector, "twice"
    )
    # a person may overrule the gate, and that holds for later moves too
    put_in_service(store.registry, EXPLAINER, second.version)
    roll_back(store.registry, MODEL)
    roll_back(store.registry, MODEL)
    assert champions(store.registry) == (second_version, second.version)


def test_no_reader_sees_a_detector_with_the_explainer_of_another(
    store: Store, second_version: int, pair, monkeypatch
) -> None:
    put_in_service(store.registry, MODEL, 1)
    belongs = {None: None, 1: pair[0].version, second_version: pair[1].version}
    seen = []

    def watched(kind: str):
        original = getattr(Registry, kind)

        def call(self: Registry, *words: Any) -> None:
            original(self, *words)
            seen.append(champions(self))

        monkeypatch.setattr(Registry, kind, call)

    watched("set_alias")
    watched("drop_alias")
    put_in_service(store.registry, MODEL, second_version)
    assert len(seen) == 3
    assert all(explainer in (None, belongs[detector]) for detector, explainer in seen), seen


def test_an_explainer_of_other_weights_is_not_taken(store: Store, second_version: int, tmp_path: Path, pair) -> None:
    other = register(store, tmp_path / "other", store.registry.resolve(f"{MODEL}/1"), weights="ab" * 32)
    assert put_in_service(store.registry, MODEL, 1).explainers == {EXPLAINER: pair[0].version}
    with pytest.raises(WrongUse, match="not in service"):
        put_in_service(store.registry, EXPLAINER, other.version)


def test_an_alias_that_was_moved_alone_is_refused_and_the_next_step_mends_it(
    store: Store, second_version: int, pair
) -> None:
    registry = store.registry
    put_in_service(registry, MODEL, 1)
    registry.set_alias(EXPLAINER, CHAMPION, pair[1].version)
    with pytest.raises(BadWeights, match=f"xadflow models promote {MODEL} 1") as refused:
        explainer_in_service(registry, registry.champion(MODEL), "twice")
    assert f"trained for version {second_version}" in str(refused.value)
    put_in_service(registry, MODEL, 1)
    assert explainer_in_service(registry, registry.champion(MODEL), "twice") == pair[0]


def test_an_explainer_is_neither_promoted_nor_rolled_back_without_its_detector(
    store: Store, second_version: int, pair
) -> None:
    put_in_service(store.registry, MODEL, 1)
    with pytest.raises(WrongUse, match=f"promote {MODEL} {second_version}"):
        put_in_service(store.registry, EXPLAINER, pair[1].version)
    with pytest.raises(WrongUse, match=f"rollback {MODEL}"):
        roll_back(store.registry, EXPLAINER)
    with pytest.raises(UnknownName):
        put_in_service(store.registry, EXPLAINER, 99)
    with pytest.raises(NoChampion):
        roll_back(store.registry, "xad.tiny-set.other")
    assert champions(store.registry) == (1, pair[0].version)


def test_listings_say_whom_it_explains(store: Store, second_version: int, pair) -> None:
    summary = {one.name: one for one in store.registry.models()}
    assert [one.explains for one in summary[EXPLAINER].versions] == [second_version, 1]
    assert {one.explains for one in summary[MODEL].versions} == {None}
    assert store.registry.explainer_models(MODEL) == [EXPLAINER]
    assert store.registry.find_trained(EXPLAINER, "twice-1") == pair[0]
