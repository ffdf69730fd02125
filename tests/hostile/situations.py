"""Each situation of docs/reference/errors.md: what is done to the small plant, what the user types, what
has happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Arrange = Callable[[Any], AbstractContextManager[object]]
CLOSED_PORT = 9  # "discard": nothing has listened there for thirty years


@dataclass(frozen=True)
class Situation:
    """One section of the page.

    `arrange` makes the situation in the plant and takes it back; `environment` is set for the command and shown before
    it; `only` leaves the lines that start so (xadflow doctor says much that differs between machines); `child` runs it
    in a process of its own.
    """

    group: str
    title: str
    happened: str
    command: str
    status: int
    arrange: Arrange = lambda plant: nullcontext()
    environment: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    child: bool = False

    @property
    def typed(self) -> str:
        """The command as the page shows it."""
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), self.command])


def params(old: str, new: str) -> Arrange:
    """params.yaml with a text replaced."""

    @contextmanager
    def changed(plant: Any) -> Iterator[None]:
        path = plant.project / "params.yaml"
        text = path.read_text()
        assert old in text, f"params.yaml has no {old!r}"
        with rewritten(path, text.replace(old, new).encode()):
            yield

    return changed


@contextmanager
def rewritten(path: Path, content: bytes) -> Iterator[None]:
    """A file with other content; DVC's outputs may be links into its cache, so it is put in place, never
    written into.
    """
    before = path.with_name(path.name + ".before")
    path.rename(before)
    path.write_bytes(content)
    try:
        yield
    finally:
        before.replace(path)


def file(relative: str, change: Callable[[bytes], bytes]) -> Arrange:
    """A file of the project with its bytes changed."""
    return lambda plant: rewritten(plant.project / relative, change((plant.project / relative).read_bytes()))


def weights(change: Callable[[bytes], bytes]) -> Arrange:
    """The champion's weights.safetensors, as MLflow keeps it, with its bytes changed."""

    def changed(plant: Any) -> AbstractContextManager[None]:
        (path,) = (plant.state / "mlartifacts/xad.bolts").rglob("artifacts/detector/weights.safetensors")
        return rewritten(path, change(path.read_bytes()))

    return changed


@contextmanager
def without(path: Path) -> Iterator[None]:
    """A file or folder that is gone."""
    away = path.with_name(path.name + ".away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def extra_folder(plant: Any, name: str, files: Mapping[str, bytes]) -> Iterator[None]:
    """A folder beside ~/bolts."""
    root = plant.users / name
    for relative, content in files.items():
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_bytes(content)
    try:
        yield
    finally:
        shutil.rmtree(root)


@contextmanager
def full_disk(plant: Any) -> Iterator[None]:
    """/dev/full in the place of the next file that is written: every write to it ends in "no space left"."""
    partial = plant.project / "data/.origin/bolts.partial"
    partial.symlink_to("/dev/full")
    try:
        yield
    finally:
        partial.unlink()


@contextmanager
def no_champion(plant: Any) -> Iterator[None]:
    """The model is registered, and no version of it is in service."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{plant.state / 'mlflow.db'}")
    client.delete_registered_model_alias("xad.bolts.fcdd", "champion")
    try:
        yield
    finally:
        client.set_registered_model_alias("xad.bolts.fcdd", "champion", "1")


@contextmanager
def empty_tables(plant: Any) -> Iterator[None]:
    """The tables are there, as after a night that found nothing to do."""
    from xadflow.project import Project

    with plant.inside():
        Project.open().store.prepare()
    yield


def flipped(content: bytes) -> bytes:
    """One bit is another one."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


IMAGES, SETTINGS, MODELS, SERVERS, DISK = ("Images and folders", "params.yaml", "Models", "Servers", "Disk and tables")
SCORE = "xadflow score ~/bolts/test/scratch/000.png --model xad.bolts.fcdd@champion"

SITUATIONS = (
    Situation(
        IMAGES,
        "Files that cannot be used",
        "Each bad file is left out with its own reason, the others are used. A file that comes back or is mended is "
        "taken by the next run. What every reason means stands at the top of `src/xadflow/datasets/border.py`.",
        "xadflow data manifest bolts",
        0,
    ),
    Situation(
        IMAGES,
        "What is in quarantine, by `xadflow doctor`",
        "Every data set with the number of its refused files and their reasons.",
        "xadflow doctor",
        0,
        only=("data bolts",),
    ),
    Situation(
        IMAGES,
        "Files that cannot be scored",
        "The good files are scored all the same; the exit status tells that some were not.",
        "xadflow score ~/bolts/train/good/truncated.png ~/bolts/train/good/text.png ~/bolts/train/good/empty.png "
        "~/bolts/test/good/bomb.png ~/nowhere.png --model xad.bolts.fcdd@champion",
        1,
    ),
    Situation(
        IMAGES,
        "A folder in another layout",
        "The folder has images, but not in the folders that say what they are.",
        "xadflow data add nuts ~/nuts",
        1,
        lambda plant: extra_folder(plant, "nuts", {"0.png": b"x", "1.png": b"x", "broken/2.png": b"x"}),
    ),
    Situation(
        IMAGES,
        "A folder without one usable image",
        "The layout is right, and no file in it is an image.",
        "xadflow data add nuts ~/nuts",
        1,
        lambda plant: extra_folder(plant, "nuts", {"train/good/0.png": b"x", "test/good/1.png": b"x"}),
    ),
    Situation(
        IMAGES,
        "A folder that is not there",
        "The path is misspelt, or a share is not mounted.",
        "xadflow data add nuts ~/nowhere",
        2,
        child=True,
    ),
    Situation(
        IMAGES,
        "The folder of a data set has gone",
        "The images were there when the data set was added. What was built from them is still in DVC's cache.",
        "xadflow data images bolts",
        1,
        lambda plant: without(plant.bolts),
    ),
    Situation(
        IMAGES, "A name that another data set has", "Nothing is overwritten.", "xadflow data add elpv ~/bolts", 2
    ),
    Situation(
        IMAGES,
        "A manifest that is damaged",
        "Somebody has written into a file that DVC keeps.",
        "xadflow data validate bolts",
        1,
        file("data/bolts/manifest.parquet", lambda content: content[: len(content) // 2]),
    ),
    Situation(
        SETTINGS,
        "An unknown key",
        "Unknown keys are refused before any work, so that a misspelt one is never ignored.",
        "xadflow retrain --dataset bolts",
        2,
        params("min_auroc:", "min_auroq:"),
    ),
    Situation(
        SETTINGS,
        "A value of another type",
        "The key takes a whole number.",
        "xadflow retrain --dataset bolts",
        2,
        params("batch_size: 32", "batch_size: many"),
    ),
    Situation(
        SETTINGS,
        "A value out of range",
        "A share lies between 0 and 1.",
        "xadflow retrain --dataset bolts",
        2,
        params("false_alarm_rate: 0.05", "false_alarm_rate: 5"),
    ),
    Situation(
        SETTINGS,
        "A name that is not there",
        "`explain.datasets` lists a data set that `datasets` does not have.",
        "xadflow retrain --dataset bolts",
        2,
        params("explain: {datasets: [bolts]", "explain: {datasets: [boltz]"),
    ),
    Situation(
        SETTINGS,
        "A value that an explainer does not take",
        (
            "Explainers check their own settings, before anything starts. The last rung of a transplant is the whole "
            "image, 1."
        ),
        "xadflow explain --dataset bolts",
        2,
        params("transplant: {}", "transplant: {rungs: [2]}"),
    ),
    Situation(
        SETTINGS,
        "A key that an explainer does not have",
        "The nearest key that it has is offered.",
        "xadflow retrain --dataset bolts",
        2,
        params("transplant: {}", "transplant: {alternativs: 5}"),
    ),
    Situation(
        SETTINGS,
        "An explainer under `retrain.explainers` that is not trained",
        "Blocks there are for generators, which are trained for one detector each.",
        "xadflow retrain --dataset bolts",
        2,
        params(
            "explainers: {diverse: [{datasets: [coloured-mnist], detectors: [bce, hsc]}]}",
            "explainers: {sparse: {datasets: [bolts], detectors: [fcdd]}}",
        ),
    ),
    Situation(
        SETTINGS,
        "A line that is not YAML",
        "Only line and column are told: the line itself could hold a secret.",
        "xadflow retrain --dataset bolts",
        2,
        params("seed: 0", "seed: [0"),
    ),
    Situation(
        SETTINGS,
        "An unknown option of a source",
        "The options of a data set belong to its source, here a folder.",
        "xadflow data images bolts",
        2,
        params("options: {path: ", "options: {licens: mine, path: "),
    ),
    Situation(
        SETTINGS,
        "A webhook that is no address",
        "Such an address often holds a token, so it is never shown.",
        SCORE,
        2,
        params("webhook: null", "webhook: 'hooks.example.org/T0KEN'"),
    ),
    Situation(
        SETTINGS,
        "A data set that params.yaml does not have",
        "The nearest name that exists is offered.",
        "xadflow retrain --dataset bolt",
        2,
    ),
    Situation(
        SETTINGS,
        "Outside of any project",
        "Commands work in the folder of a project and below it.",
        SCORE,
        2,
        environment={"XADFLOW_PROJECT": "/usr"},
    ),
    Situation(
        MODELS,
        "No champion",
        "No version is in service: none was trained, or none has passed the gate.",
        SCORE,
        1,
        no_champion,
    ),
    Situation(
        MODELS,
        "No champion for the night",
        "The nightly run stops before it scores anything.",
        "xadflow explain --dataset bolts",
        1,
        no_champion,
    ),
    Situation(
        MODELS,
        "No donors for transplants",
        "Donors, the normal images whose pixels a transplant takes, are chosen when a version is registered; this one "
        "was registered without. A night that does not name the explainer leaves it out, says so, and does the others.",
        "xadflow explain --dataset bolts --explainer transplant",
        1,
    ),
    Situation(
        MODELS,
        "An explainer that does not suit the detector",
        "Reconstructions are of detectors that reconstruct. A night that does not name the explainer passes it over.",
        "xadflow explain --dataset bolts --explainer reconstruction",
        2,
    ),
    Situation(
        MODELS,
        "No judge, by `xadflow doctor`",
        "Counterfactuals are made all the same, and no detector that had no part in them is asked.",
        "xadflow doctor",
        0,
        only=("judge",),
    ),
    Situation(
        MODELS,
        "A model that was never registered",
        "The name is right by its form, and unknown.",
        SCORE.replace("bolts.fcdd@champion", "bolts.hsc@champion"),
        1,
    ),
    Situation(
        MODELS,
        "A version that does not exist",
        "There is a model of that name, without such a version.",
        SCORE.replace("@champion", "/7"),
        2,
    ),
    Situation(
        MODELS,
        "A model named in another form",
        "A version is named by an alias or by its number.",
        SCORE.replace("@champion", ":champion"),
        2,
    ),
    Situation(
        MODELS,
        "Weights with one bit changed",
        "Every file of a registered model is compared with the digest it was registered with before it is loaded.",
        SCORE,
        1,
        weights(flipped),
    ),
    Situation(
        MODELS,
        "Weights that are cut off",
        "The same check; what `xadflow doctor` says of it.",
        "xadflow doctor",
        1,
        weights(lambda content: content[: len(content) // 2]),
        only=("champion",),
    ),
    Situation(
        SERVERS,
        "No Prefect server answers",
        "`PREFECT_API_URL` names a server that is not up.",
        "xadflow retrain --dataset bolts",
        1,
        environment={"PREFECT_API_URL": f"http://127.0.0.1:{CLOSED_PORT}/api"},
    ),
    Situation(
        SERVERS,
        "No MLflow server answers",
        "`MLFLOW_TRACKING_URI` names a server that is not up.",
        "xadflow explain --dataset bolts",
        1,
        environment={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{CLOSED_PORT}"},
    ),
    Situation(
        SERVERS,
        "Both, by `xadflow doctor`",
        "Each thing that is lacking stands there with the command that mends it.",
        "xadflow doctor",
        1,
        environment={
            "PREFECT_API_URL": f"http://127.0.0.1:{CLOSED_PORT}/api",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{CLOSED_PORT}",
        },
        only=("mlflow", "prefect", "webhook"),
    ),
    Situation(
        SERVERS,
        "An MLflow database that is none",
        "The file is there, and something else has been written into it.",
        "xadflow models list",
        1,
        file("var/mlflow.db", lambda content: b"something else " * 100),
        child=True,  # a process keeps the registry that it has opened
    ),
    Situation(
        DISK,
        "A full disk",
        "Nothing half written stays; what was there before is whole.",
        "xadflow data origin bolts",
        1,
        full_disk,
    ),
    Situation(
        DISK,
        "An image that no table has",
        "The tables are made by the first night. Until then, and for an image that no night has seen, there is no row.",
        "xadflow audit show 1234567",
        2,
        empty_tables,
    ),
)
