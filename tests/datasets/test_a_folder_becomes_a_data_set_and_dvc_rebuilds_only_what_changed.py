"""`xadflow data add` and real DVC, on a copy of the project's own dvc.yaml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.datasets.manifest import read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "plant"
    (root / "src/xadflow/datasets").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".dvc/config", "data/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    for name in ("images", "datasets"):
        source = PROJECT / "src/xadflow" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, root / "src/xadflow" / name, **({"dirs_exist_ok": True} if source.is_dir() else {}))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def run(project: Path, *words: str, status: int = 0) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XADFLOW_")}
    environment = {
        **kept,
        "XADFLOW_PROJECT": str(project),
        "DVC_SITE_CACHE_DIR": str(project / "var/dvc-site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_add_build_and_change(project: Path, product: Path, put, png) -> None:
    before = (project / "params.yaml").read_text()
    refused = run(project, "xadflow", "data", "add", "bolt", str(product), "--known-used", "3", status=1)
    assert "known/anomalous: 0 of at least 3" in refused
    assert (project / "params.yaml").read_text() == before

    for number in range(30, 110):  # 110 normals: 19 of them in val for a false-alarm rate of 5 %
        put(product / f"train/good/{number:03d}.png", png(number + 1000))
    put(product / "train/good/broken.png", b"broken")
    told = run(project, "xadflow", "data", "add", "bolt", str(product), "--symmetries", "flips")
    assert "1 not-an-image" in told
    assert "Next: xadflow retrain --dataset bolt" in told
    assert "The product is not aligned: the same place shows different parts of it (guessed: images are like" in told
    assert "Symmetries: flips, a mirrored image is normal too.\n" in told
    assert "under datasets.bolt in params.yaml: size_px, channels, bit_depth, aligned, symmetries" in told
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert params["catalogue"][-1] == "bolt"
    assert params["datasets"]["bolt"]["channels"] == 1
    assert params["datasets"]["bolt"]["known_used"] == 0
    assert (params["datasets"]["bolt"]["aligned"], params["datasets"]["bolt"]["symmetries"]) == (False, "flips")
    assert "bolt" in params["retrain"]["datasets"]
    assert "bolt" in params["explain"]["datasets"]
    lock = (project / "dvc.lock").read_bytes()
    manifest = read_manifest(project / "data/bolt")
    assert len(manifest.rows()) == 110 + 6 + 8

    again = run(project, "dvc", "repro", "validate@bolt")
    assert "Stage 'images@bolt' didn't change, skipping" in again
    assert (project / "dvc.lock").read_bytes() == lock

    run(project, "dvc", "push")
    files = {path: path.read_bytes() for path in (project / "data").rglob("*") if path.is_file()}
    # A colleague's clone: the data set's folder is not there, and dvc.lock names data sets that nobody pushed.
    never = yaml.safe_load(lock)
    never["stages"]["images@elpv"] = yaml.safe_load(lock.replace(b"bolt", b"elpv"))["stages"]["images@elpv"]
    never["stages"]["images@elpv"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    (project / "dvc.lock").write_text(yaml.safe_dump(never, sort_keys=False))
    for gone in ("data/bolt", "data/.origin", ".dvc/cache"):
        shutil.rmtree(project / gone)
    product.rename(product.with_name("elsewhere"))
    refused = run(project, "xadflow", "data", "origin", "bolt", status=1)
    assert "the folder of data set 'bolt' is not there" in refused
    assert "dvc pull --allow-missing" in refused
    run(project, "dvc", "pull", "--allow-missing")
    assert {path: path.read_bytes() for path in files if path.is_file()} == files
    pulled = run(project, "dvc", "repro", "validate@bolt")
    assert "note: the folder of data set 'bolt' is not there" in pulled
    assert all(
        f"Stage '{stage}@bolt' didn't change, skipping" in pulled for stage in ("images", "manifest", "validate")
    )
    assert {path: path.read_bytes() for path in files if path.is_file()} == files
    product.with_name("elsewhere").rename(product)

    put(product / "train/good/new.png", png(5000))
    changed = run(project, "dvc", "repro", "manifest@bolt")
    assert "Running stage 'images@bolt'" in changed
    assert "images/train/good/new.png" in {row.path for row in read_manifest(project / "data/bolt").rows()}


def test_a_quiet_dvc_still_says_what_our_commands_find_wrong(project: Path) -> None:
    """What DVC itself finds before any stage it keeps to itself then, whatever we do: dvc.yaml says so."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("\n".join(one for one in text.splitlines() if not one.startswith("limits:")))
    said = run(project, "dvc", "repro", "--quiet", "validate@textures-brick", status=255)
    assert said.startswith("xadflow: limits is missing in params.yaml, and dvc.yaml hands it to its stages")
    assert run(project, "dvc", "repro", "--quiet", "validate@nowhere", status=255) == ""


def test_wrong_use_is_answered_before_any_work(project: Path, product: Path, put, png, tmp_path: Path) -> None:
    before = (project / "params.yaml").read_text()
    for name, folder, said in (
        ("Bolt", product, "lower case"),
        ("elpv", product, "is there already"),
        ("bolt", tmp_path / "gone", "not a folder"),
    ):
        answer = run(project, "xadflow", "data", "add", name, str(folder), status=2)
        assert said in answer
        assert "Traceback" not in answer
    put(tmp_path / "flat/a.png", png(1))
    assert "MVTec-AD layout" in run(project, "xadflow", "data", "add", "flat", str(tmp_path / "flat"), status=1)
    assert (project / "params.yaml").read_text() == before
    assert not (project / "dvc.lock").exists()
