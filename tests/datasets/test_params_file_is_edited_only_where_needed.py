from pathlib import Path

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.datasets.params_file import replace_params, with_dataset, with_name_in
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
