"""docs/explanation/architecture.md draws the house as it is."""

import re

from tests.checkout import PROJECT

PAGE = (PROJECT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
ROOMS = {path.name for path in (PROJECT / "src/xadflow").iterdir() if path.is_dir() and path.name != "__pycache__"}


def test_every_room_is_in_the_picture_and_has_a_paragraph() -> None:
    drawn = set(re.findall(r"\[\"<b>([a-z_]+)/</b>", PAGE))
    told = set(re.findall(r"\*\*([a-z_]+)/\*\*", PAGE))
    assert {"flows", "tasks", *ROOMS} == drawn
    assert {"flows", "tasks", "tests", "benchmarks", *ROOMS} <= told
    for name in (path.name for path in (PROJECT / "src/xadflow").glob("*.py") if not path.name.startswith("_")):
        assert f"`{name}`" in PAGE, name


def test_every_file_that_the_page_sends_a_person_to_is_there() -> None:
    wanted = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|html))?)`", PAGE)
    assert len(wanted) > 15
    for one in wanted:
        assert (PROJECT / "src/xadflow" / one).exists() or (PROJECT / one).exists(), one


def test_at_least_ten_changes_are_told() -> None:
    table = PAGE.partition("## I want to change")[2]
    assert len(re.findall(r"^\| (?!---|I want)", table, flags=re.M)) >= 10
