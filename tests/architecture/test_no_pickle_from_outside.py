import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FORBIDDEN = re.compile(
    r"weights_only\s*=\s*False|\bimport (cloud)?pickle\b|\bfrom (cloud)?pickle\b|joblib\.load|allow_pickle=True"
)


def test_no_source_file_reads_pickle() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}"
        for folder in ("src", "flows", "tasks", "benchmarks")
        for path in (PROJECT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []
