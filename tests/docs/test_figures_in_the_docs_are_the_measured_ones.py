import json

from benchmarks.probe_table import HOW_TO, how_to_with
from benchmarks.render import PAGE, RESULTS, page


def test_the_benchmarks_page_is_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make figures`"


def test_the_table_of_the_probe_is_what_the_results_say() -> None:
    figures = json.loads((RESULTS / "probe.json").read_text())["figures"]
    assert HOW_TO.read_text(encoding="utf-8") == how_to_with(figures), "run `make figures`"
