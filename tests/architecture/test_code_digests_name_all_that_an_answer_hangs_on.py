"""A digest of code names what an answer hangs on: nothing that the hashed code imports is left out without a reason."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

import xadflow
from xadflow import lineage

ROOT = Path(xadflow.__file__).parent
DIGESTS = ("DETECTOR_CODE", "EXPLAINER_CODE", "NIGHT_CODE", "PROBE_CODE", "GENERATOR_CODE")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Each file of the package, and the files it imports, by their paths in it."""
    graph = grimp.build_graph("xadflow", cache_dir=None)
    paths = {}
    for module in graph.modules:
        inside = module.removeprefix("xadflow").lstrip(".").replace(".", "/")
        paths[module] = f"{inside}.py" if (ROOT / f"{inside}.py").is_file() else f"{inside}/__init__.py".lstrip("/")
    return {
        path: {paths[one] for one in graph.find_modules_directly_imported_by(module)} for module, path in paths.items()
    }


def inside(path: str, parts: tuple[str, ...]) -> bool:
    return any(path == part or path.startswith(f"{part}/") for part in parts)


def left_out(imports: dict[str, set[str]], parts: tuple[str, ...], reasons: dict[str, str]) -> dict[str, str]:
    """Files outside `parts` and `reasons` that some file inside imports: each with one that does."""
    return {
        path: importer
        for importer in sorted(imports)
        if inside(importer, parts)
        for path in sorted(imports[importer])
        if not inside(path, parts) and not inside(path, tuple(reasons))
    }


@pytest.mark.parametrize("digest", DIGESTS)
def test_hashed_code_imports_only_what_is_hashed_or_changes_no_answer(digest: str, imports: dict[str, set[str]]):
    assert left_out(imports, getattr(lineage, digest), lineage.NOT_HASHED) == {}


@pytest.mark.parametrize("digest", DIGESTS)
def test_every_part_of_a_digest_is_there(digest: str):
    assert [part for part in getattr(lineage, digest) if not (ROOT / part).exists()] == []


def test_every_reason_is_needed(imports: dict[str, set[str]]):
    parts = tuple({part for digest in DIGESTS for part in getattr(lineage, digest)})
    for name in lineage.NOT_HASHED:
        others = {other: reason for other, reason in lineage.NOT_HASHED.items() if other != name}
        assert any(left_out(imports, getattr(lineage, digest), others) for digest in DIGESTS), name
    assert not inside("errors.py", parts)


def test_a_forgotten_module_is_found(imports: dict[str, set[str]]):
    """Scoring once stood outside every digest: a replay could say "differs" without "code changed"."""
    moved = {**imports, "scoring.py": set(), "detectors/base.py": imports["detectors/base.py"] | {"scoring.py"}}
    found = left_out(moved, lineage.DETECTOR_CODE, lineage.NOT_HASHED)
    assert found == {"scoring.py": "detectors/base.py"}
