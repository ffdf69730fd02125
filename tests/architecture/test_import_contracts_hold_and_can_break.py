import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import PROJECT

BREAKS = {
    "a task imports a flow": ("tasks/broken.py", "import flows.retrain\n"),
    "xadflow imports prefect": ("src/xadflow/settings/broken.py", "import prefect\n"),
    "xadflow imports a task": ("src/xadflow/cli/broken.py", "import tasks.dataset\n"),
    "a second module imports mlflow": ("src/xadflow/settings/broken.py", "import mlflow\n"),
    "a second module imports deltalake": ("src/xadflow/settings/broken.py", "import deltalake\n"),
    "a second module imports great_expectations": ("src/xadflow/datasets/broken.py", "import great_expectations\n"),
    "an explainer imports a detector": ("src/xadflow/explainers/broken.py", "import xadflow.detectors.fcdd.detector\n"),
    "a room imports from a room above it": ("src/xadflow/networks/broken.py", "import xadflow.evidence.tables\n"),
    "two rooms of one floor import each other": ("src/xadflow/networks/broken.py", "import xadflow.defects.drawn\n"),
    "a room that is on no floor": ("src/xadflow/attic.py", '"""Nothing."""\n'),
    "a detector imports an explainer": (
        "src/xadflow/detectors/broken.py",
        "import xadflow.explainers.sparse.explainer\n",
    ),
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    # The copy comes first on the path, so the contracts are checked on it and not on the installed project.
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/src']\n"
        "from importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename=sys.argv[1] + '/pyproject.toml', cache_dir=None))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, cwd=root, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("flows", "tasks", "src"):
        for file in (PROJECT / folder).rglob("*.py"):
            target = tmp_path / file.relative_to(PROJECT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    return tmp_path


def test_every_contract_holds(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_rule_of_imports_is_found(copy: Path, what: str) -> None:
    name, text = BREAKS[what]
    (copy / name).write_text(text)
    done = lint(copy)
    assert done.returncode != 0
    assert "1 broken" in done.stdout or "2 broken" in done.stdout, done.stdout + done.stderr
