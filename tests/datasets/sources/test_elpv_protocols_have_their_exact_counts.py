import numpy as np
import pytest

from xadflow.datasets.sources.base import Candidate, Refused, open_source
from xadflow.datasets.sources.elpv import _data_folder, block_split, peer_split, read_labels
from xadflow.errors import BadInput, BadSettings
from xadflow.settings import DatasetSettings


@pytest.fixture(scope="module")
def probability() -> np.ndarray:
    return read_labels(_data_folder() / "labels.csv")[1]


def test_labels_are_the_published_table() -> None:
    _, p, types = read_labels(_data_folder() / "labels.csv")
    table = {
        (cell, level): int(np.sum((np.array(types) == cell) & np.isclose(p, level / 3, atol=1e-3)))
        for cell in ("mono", "poly")
        for level in range(4)
    }
    assert [table["mono", level] for level in range(4)] == [588, 117, 56, 313]
    assert [table["poly", level] for level in range(4)] == [920, 178, 50, 402]


def test_peer_split_is_1206_302_655_60_and_follows_the_written_recipe(probability: np.ndarray) -> None:
    split = peer_split(probability)
    normal = np.array([row for row, p in enumerate(probability) if p < 0.01])
    rng = np.random.default_rng(0)
    rng.shuffle(normal)
    assert split.train.tolist() == normal[: int(0.8 * 1508)].tolist()
    in_test = probability[split.test]
    assert (len(split.train), int((in_test < 0.01).sum()), int((in_test > 0.99).sum()), len(split.known)) == (
        1206,
        302,
        655,
        60,
    )
    assert (probability[split.known] > 0.99).all()
    assert len(set(split.train) | set(split.test) | set(split.known)) == 1206 + 302 + 715


def test_block_folds_are_contiguous_disjoint_and_together_whole(probability: np.ndarray) -> None:
    used = [row for row, p in enumerate(probability) if p < 0.01 or p > 0.99]
    folds = [block_split(probability, fold) for fold in range(5)]
    assert [len(fold.test) for fold in folds] == [445, 445, 445, 444, 444]
    assert np.concatenate([fold.test for fold in folds]).tolist() == used
    for fold in folds:
        parts = [set(part.tolist()) for part in fold]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert len(fold.known) == 60
        assert (probability[fold.train] < 0.01).all()
        assert (probability[fold.known] > 0.99).all()
        assert len(fold.train) == 1508 - int((probability[fold.test] < 0.01).sum())


def test_known_defects_are_the_same_for_every_use_and_none_can_be_reserved_from_none(probability: np.ndarray) -> None:
    assert peer_split(probability).known.tolist() == peer_split(probability).known.tolist()
    assert len(peer_split(probability, 0).known) == 0
    with pytest.raises(BadInput, match="reserved_defects"):
        peer_split(probability, 715)
    with pytest.raises(BadInput, match="folds"):
        block_split(probability, 5)


def test_every_image_of_the_package_is_offered_or_left_out_with_the_reason() -> None:
    offered = list(open_source("elpv", DatasetSettings(source="elpv")).candidates())
    assert len(offered) == 2624
    left_out = [one for one in offered if isinstance(one, Refused)]
    assert len(left_out) == 401
    assert all("0.33" in one.detail or "0.67" in one.detail for one in left_out)
    used = [one for one in offered if isinstance(one, Candidate)]
    assert {one.category for one in used} == {"mono", "poly"}
    assert {one.licence for one in used} == {"CC BY-NC-SA 4.0"}
    assert {one.source for one in used} == {"elpv-dataset==1.0.0.post1"}


def test_a_wrong_protocol_is_refused_by_its_key() -> None:
    with pytest.raises(BadSettings, match=r"datasets\.elpv\.options\.protocol") as refusal:
        open_source("elpv", DatasetSettings(source="elpv", options={"protocol": "peer-1"}))
    assert refusal.value.seen == "peer-1"
