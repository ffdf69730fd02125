from pathlib import Path

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.datasets.params_file import replace_params, with_dataset, with_name_in, without_dataset, without_keys
from xadflow.errors import BadSettings
from xadflow.settings import load_settings

PARAMS = PROJECT / "params.yaml"
ENTRY = {"source": "folder", "size_px": 128, "channels": 3, "options": {"path": "/mnt/über: #1, [x]"}}
BLOCK = """\
catalogue:
  - one   # the first
# between
datasets:
  one:
    source: elpv   # five
    options:
      protocol: peer-0
  # after the last entry

retrain:
  datasets:
  - one
explain: {datasets: [], shard_size: 5}
"""


@pytest.mark.parametrize("text", [PARAMS.read_text(encoding="utf-8"), BLOCK], ids=["the project's", "block style"])
def test_every_former_line_survives_and_only_the_new_name_is_added(text: str) -> None:
    lists = (("retrain", "datasets"), ("explain", "datasets"))
    after = with_name_in(with_dataset(text, "screws", ENTRY), "screws", *lists)
    old, new = yaml.safe_load(text), yaml.safe_load(after)
    assert new["catalogue"] == [*old["catalogue"], "screws"]
    assert new["datasets"] == {**old["datasets"], "screws": ENTRY}
    for part in ("retrain", "explain"):
        assert new[part] == {**old[part], "datasets": [*old[part]["datasets"], "screws"]}
    touched = [line for line in text.splitlines() if line not in after.splitlines()]
    assert all("datasets: [" in line for line in touched)
    assert with_name_in(after, "screws", *lists) == after


def test_the_projects_own_params_stay_valid(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text(encoding="utf-8"), encoding="utf-8")
    replace_params(path, with_dataset(path.read_text(encoding="utf-8"), "screws", ENTRY))
    assert load_settings(path).dataset("screws").options == ENTRY["options"]


def test_a_text_that_is_not_valid_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    before = PARAMS.read_text(encoding="utf-8")
    path.write_text(before, encoding="utf-8")
    with pytest.raises(BadSettings):
        replace_params(path, with_dataset(before, "screws", {"source": "folder", "size": 3}))
    assert path.read_text(encoding="utf-8") == before
    assert [one.name for one in tmp_path.iterdir()] == ["params.yaml"]


def test_a_missing_list_is_named() -> None:
    with pytest.raises(BadSettings, match="no list or mapping catalogue"):
        with_dataset("datasets: {}\n", "screws", ENTRY)


@pytest.mark.parametrize("text", [PARAMS.read_text(encoding="utf-8"), BLOCK], ids=["the project's", "block style"])
def test_what_was_added_is_taken_out_again_byte_for_byte(text: str) -> None:
    lists = (("retrain", "datasets"), ("explain", "datasets"))
    assert without_dataset(with_name_in(with_dataset(text, "screws", ENTRY), "screws", *lists), "screws") == text


@pytest.mark.parametrize("name", ["one", "two", "three"])
@pytest.mark.parametrize(
    "text",
    [
        "catalogue: [one, two, three]\ndatasets: {one: {a: [1]}, two: {b: 2}, three: {}}\n"
        "retrain: {datasets: [two, one, one], x: 1}\nexplain: {datasets: [three], y: {z: 1}}\n",
        "catalogue:\n- one # first\n- two\n- three\n# between\ndatasets:\n  one:\n    a: [1]\n"
        "  two: {b: 2}\n  three:\n    c:\n    - 1\n"
        "# after\nretrain:\n  datasets:\n    - one\nexplain:\n  datasets: [one, two]\n  y: 1\n",
    ],
    ids=["in brackets", "on lines"],
)
def test_any_place_of_a_list_or_mapping_is_taken_out(text: str, name: str) -> None:
    expected = yaml.safe_load(text)
    del expected["datasets"][name]
    for owner, key in ((expected, "catalogue"), (expected["retrain"], "datasets"), (expected["explain"], "datasets")):
        owner[key] = [one for one in owner[key] if one != name]
    after = without_dataset(text, name)
    assert yaml.safe_load(after) == expected
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in after.splitlines() if line.startswith("#")] == comments


def test_stages_are_taken_out_of_a_lock_and_the_others_keep_their_bytes() -> None:
    lock = (PROJECT / "dvc.lock").read_text(encoding="utf-8")
    lock = lock[: lock.index("  origin@", len(lock) // 4)]  # a quarter of it, up to the next data set
    stages = yaml.safe_load(lock)["stages"]
    gone = {name for name in stages if name.endswith("@textures-brick")}
    after = without_keys(lock, "stages", gone)
    assert gone
    assert yaml.safe_load(after)["stages"] == {name: one for name, one in stages.items() if name not in gone}
    assert all(line in lock.splitlines() for line in after.splitlines())


def test_a_full_disk_leaves_no_half_of_params_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **_: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    path = tmp_path / "params.yaml"
    path.touch()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        replace_params(path, "x")
    assert [one.name for one in tmp_path.iterdir()] == ["params.yaml"]
