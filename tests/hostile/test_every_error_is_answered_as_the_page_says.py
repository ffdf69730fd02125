"""Builds each situation for real, asks the program, and compares with docs/reference/errors.md.

`make errors-page` (XADFLOW_WRITE_ERRORS_PAGE=1) writes the page from the answers.
"""

from __future__ import annotations

import os

import pytest
from errors_page import PAGE, anchor, page, section
from situations import SITUATIONS, Situation
from small_works import Answer

pytestmark = [pytest.mark.slow, pytest.mark.server]

WRITING = bool(os.environ.get("XADFLOW_WRITE_ERRORS_PAGE"))
BY_TITLE = {one.title: one for one in SITUATIONS}


@pytest.fixture(scope="module")
def answers(plant, added, champion, prefect_server) -> dict[str, Answer]:
    """Filled by the tests below, one situation at a time."""
    return {}


def ask(plant, situation: Situation) -> Answer:
    with situation.arrange(plant):
        answer = (plant.child if situation.child else plant.here)(situation.command, **situation.environment)
    return Answer(answer.status, findings(answer.said, situation.only)) if situation.only else answer


def findings(said: str, only: tuple[str, ...]) -> str:
    """Lines of `xadflow doctor` for some findings, each with the line that says what mends it."""
    kept, wanted = ["..."], False
    for line in said.splitlines():
        if not line.startswith(" "):
            wanted = line[6:].startswith(only)
        kept += [line] if wanted else ["..."] if kept[-1] != "..." else []
    return "\n".join(kept)


@pytest.mark.parametrize("title", list(BY_TITLE))
def test_an_answer_has_its_status_says_what_to_do_and_is_the_one_on_the_page(plant, answers, title: str) -> None:
    situation = BY_TITLE[title]
    answer = answers[title] = ask(plant, situation)
    assert answer.status == situation.status, answer.said
    assert "Traceback" not in answer.said
    assert "Next: " in answer.said or " -> " in answer.said or "--help" in answer.said, answer.said
    if not WRITING:
        assert section(situation, answer) in PAGE.read_text(encoding="utf-8"), (
            f"{answer.said}\n\nrun `make errors-page`"
        )


def test_the_page_is_made_of_these_answers_and_nothing_else(answers) -> None:
    if set(answers) != set(BY_TITLE):
        pytest.skip("only some of the situations were asked")
    if WRITING:
        PAGE.write_text(page(answers), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(answers), "run `make errors-page`"


def test_a_situation_leaves_the_plant_as_it_was(plant, answers) -> None:
    done = plant.here("xadflow score ~/bolts/test/scratch/000.png --model xad.bolts.fcdd@champion")
    assert done.status == 0, done.said


def test_every_title_of_the_page_has_an_address_of_its_own() -> None:
    addresses = [anchor(one.title) for one in SITUATIONS] + [
        anchor(group) for group in {one.group for one in SITUATIONS}
    ]
    assert len(set(addresses)) == len(addresses)
