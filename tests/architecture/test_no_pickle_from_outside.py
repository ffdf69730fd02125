import re

from tests.checkout import PROJECT

FORBIDDEN = re.compile(
    r"weights_only\s*=\s*False|\bimport (cloud)?pickle\b|\bfrom (cloud)?pickle\b|joblib\.load|allow_pickle=True"
)

# CIFAR-10 is published as pickles: read after the sha256 held, by an unpickler that knows three stand-ins of ours
# (tests/datasets/public/test_cifar10_is_read_without_running_its_pickles.py).
ALLOWED = ["src/xadflow/datasets/public/cifar.py: import pickle"]


def test_one_source_file_reads_pickle_and_knows_what_it_admits() -> None:
    found = [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for folder in ("src", "flows", "tasks", "benchmarks")
        for path in (PROJECT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if FORBIDDEN.search(line)
    ]
    assert found == ALLOWED
