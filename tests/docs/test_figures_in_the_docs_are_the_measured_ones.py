from benchmarks.render import PAGE, page


def test_the_benchmarks_page_is_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make figures`"
