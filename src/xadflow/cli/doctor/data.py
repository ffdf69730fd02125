"""What `xadflow doctor` looks at in the data: DVC's remote, each data set, and what is in quarantine."""

from __future__ import annotations

import configparser
from collections.abc import Iterator

from xadflow.cli.doctor.checks import Finding
from xadflow.errors import BadManifest
from xadflow.project import Project
from xadflow.settings import Home


def data_remote(home: Home) -> Iterator[Finding]:
    """Whether DVC knows where to push to."""
    config = configparser.ConfigParser()
    config.read([home.project / ".dvc" / name for name in ("config", "config.local")])
    remote = config.get("core", "remote", fallback="").strip()
    if remote:
        yield Finding("dvc remote", "ok", remote)
    else:
        yield Finding(
            "dvc remote", "warn", "none: data cannot be pushed or pulled", "dvc remote add --default local DIR"
        )


def datasets(project: Project) -> Iterator[Finding]:
    """Manifests that are built, with what was refused; one that a flow is set to use must be built."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    settings = project.settings
    used = {*settings.retrain.datasets, *settings.explain.datasets, settings.demo.dataset}
    idle = []
    for name in settings.catalogue:
        path = project.home.dataset(name) / "manifest.parquet"
        mend = f"dvc repro validate@{name}"
        try:
            said = f"{pq.read_metadata(path).num_rows} images"
        except FileNotFoundError:
            if name in used:
                yield Finding(f"data {name}", "warn", "not built", mend)
            else:
                idle.append(name)
            continue
        except (OSError, pa.ArrowInvalid) as err:
            yield Finding(f"data {name}", "fail", f"manifest cannot be read: {type(err).__name__}", f"{mend} --force")
            continue
        yield _with_quarantine(project.home, name, said)
        yield from _origin(project, name)
    if idle:
        yield Finding("other data", "ok", f"not built, used by no flow: {', '.join(idle)} (`dvc repro validate@NAME`)")


def _origin(project: Project, name: str) -> Iterator[Finding]:
    """Of a folder of one's own: whether it is on this machine; what was pulled needs none."""
    dataset = project.settings.dataset(name)
    path = dataset.options.get("path")
    if dataset.source == "folder" and path is not None and not (project.home.project / str(path)).expanduser().is_dir():
        said = f"the folder it comes from is not here, {path}: what was brought in or pulled before is used"
        yield Finding(f"data {name}", "ok", said)


def _with_quarantine(home: Home, name: str, said: str) -> Finding:
    from xadflow.datasets.stages import read_quarantine, reasons

    try:
        counts = reasons(read_quarantine(home, name))
    except BadManifest as err:
        return Finding(f"data {name}", "fail", f"{err.wrong}: {err.seen}", err.next_step)
    if not counts:
        return Finding(f"data {name}", "ok", said)
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return Finding(
        f"data {name}",
        "ok",
        f"{said}, {sum(counts.values())} files in quarantine: {listed}",
        f"xadflow data manifest {name} lists them",
    )
