"""The only module that reads or sets environment variables: where state lives, and what keeps the stack quiet."""

from __future__ import annotations

import getpass
import logging
import os
import sys
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xadflow.errors import WrongUse
from xadflow.settings.login import is_own_server, login_of
from xadflow.settings.private import keep_private

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    # default 20; a fresh database took 41 s, a busy machine more
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    # On disk a dead run's lease outlives the server, so that a restarted server frees its slot.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to --json
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A server that restarts is waited for, a dead one for 29 s and not for 245 s as by default; each answer for 30 s at
    # most.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DASK_LOGGING__DISTRIBUTED": "error",
    "HF_HUB_OFFLINE": "1",
    # A thread of torch that waits for another sleeps; by default it spins, which takes the processor from whoever else
    # works.
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Home:
    """Where a project and its state are. `project` holds params.yaml and dvc.yaml; `state` is var/ or $XADFLOW_HOME."""

    project: Path
    state: Path

    @staticmethod
    def find(start: Path | None = None) -> Home:
        """The project of the working folder: the nearest folder upwards with a params.yaml and a dvc.yaml.

        $XADFLOW_PROJECT names it directly, $XADFLOW_HOME moves the state. Raises WrongUse outside any project.
        """
        named = os.environ.get("XADFLOW_PROJECT")
        here = Path(named).resolve() if named else (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                state = os.environ.get("XADFLOW_HOME")
                return Home(folder, Path(state).resolve() if state else folder / "var")
        raise WrongUse(
            "no xadflow project here or above: a folder with params.yaml and dvc.yaml",
            seen=here.name,
            next_step="cd into the project, or set XADFLOW_PROJECT",
        )

    def shown(self, path: Path) -> str:
        """A path of the project or its state as pages and messages name it: relative, so that it holds elsewhere."""
        for root in (self.project, self.state.parent):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return str(path)

    @property
    def params(self) -> Path:
        """params.yaml."""
        return self.project / "params.yaml"

    def dataset(self, name: str) -> Path:
        """Folder of a data set: images/, manifest.parquet, quarantine.parquet, validation.json."""
        return self.project / "data" / name

    def inbox(self, name: str) -> Path:
        """Folder where new images of a data set arrive, unless --inbox names another."""
        return self.state / "inbox" / name

    @property
    def tables(self) -> Path:
        """Folder of the Delta tables scores/ and explanations/."""
        return self.state / "tables"

    @property
    def ledger(self) -> Path:
        """Folder of the ledger of commits."""
        return self.state / "ledger"

    @property
    def dvc_site(self) -> Path:
        """Folder of DVC's caches for this machine, which it unpickles: $DVC_SITE_CACHE_DIR, or one of the state."""
        return Path(os.environ.get("DVC_SITE_CACHE_DIR") or self.state / "dvc-site")

    @property
    def writer_secret(self) -> Path | None:
        """File of this account, outside of every project, with the secret that announces its commits of evidence.

        In $XDG_STATE_HOME or ~/.local/state; None for an account without a home folder.
        """
        named = os.environ.get("XDG_STATE_HOME")
        try:
            return (Path(named) if named else Path.home() / ".local" / "state") / "xadflow" / "writer-secret"
        except RuntimeError:
            return None

    @property
    def reports(self) -> Path:
        """Folder of the report pages."""
        return self.state / "reports"

    @property
    def runs(self) -> Path:
        """Folder of training checkpoints and other resumable work."""
        return self.state / "runs"

    @property
    def probes(self) -> Path:
        """Folder of what `xadflow probe` measured."""
        return self.state / "probe"

    @property
    def mlflow_uri(self) -> str:
        """$MLFLOW_TRACKING_URI, or the embedded SQLite store."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.embedded_mlflow_uri

    @property
    def embedded_mlflow_uri(self) -> str:
        """The SQLite store var/mlflow.db, which `make server` serves."""
        return f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def prefect_api_url(self) -> str | None:
        """$PREFECT_API_URL, or None: each flow then starts an ephemeral server."""
        return os.environ.get("PREFECT_API_URL")

    @property
    def prefect_authorization(self) -> str | None:
        """The Authorization header that a guarded Prefect server asks for, a secret; None without any.

        From $PREFECT_API_AUTH_STRING (user:password) or $PREFECT_API_KEY.
        """
        if guarded := os.environ.get("PREFECT_API_AUTH_STRING"):
            return f"Basic {b64encode(guarded.encode()).decode()}"
        key = os.environ.get("PREFECT_API_KEY")
        return f"Bearer {key}" if key else None

    @property
    def webhook(self) -> str | None:
        """$XADFLOW_WEBHOOK, a secret: use :func:`xadflow.settings.webhook_address`."""
        return os.environ.get("XADFLOW_WEBHOOK") or None

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of MLflow's artifacts when its store is embedded."""
        return self.state / "mlartifacts"


def dask_scheduler() -> str | None:
    """$DASK_SCHEDULER_ADDRESS, which Dask itself reads; None without."""
    return os.environ.get("DASK_SCHEDULER_ADDRESS")


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes, for a child."""
    return {**os.environ, **changes}


def interactive_environment() -> None:
    """In a person's command Prefect is silent: the progress board says what runs, and our own one line what failed.

    Prefect logs every failure with a traceback; `PREFECT_LOGGING_LEVEL=ERROR` brings that back. Other libraries' logs,
    by `PREFECT_LOGGING_ROOT_LEVEL=WARNING`: the server that lives as long as the command sometimes ends within a query.
    That server's own, by `PREFECT_LOGGING_SERVER_LEVEL=WARNING`: where two of its writers meet in SQLite ("database is
    locked"), it prints a traceback and writes again.
    """
    for logs in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_ROOT_LEVEL", "PREFECT_LOGGING_SERVER_LEVEL"):
        os.environ.setdefault(logs, "CRITICAL")
    ours = logging.getLogger("xadflow")
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.WARNING)  # not by the root's level any more


def dvc_stage() -> str:
    """The stage that DVC runs this command for, as `images@elpv`; "" where it is not DVC that runs it."""
    return os.environ.get("DVC_STAGE", "")


def name_the_user() -> None:
    """Give a user that this machine has no name for one: DVC and MLflow ask for it, and DVC ends with an error without.

    So it is in a container that is run with `--user`, and for the owner of a folder that came from another machine.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def quiet_environment(home: Home) -> None:
    """Set the switches that keep every dependency offline, quiet and inside the project; what is set already stays.

    Also puts this interpreter's folder first on PATH, so that `dvc` stages and servers run the same environment.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with suppress(OSError):  # a project that may only be read can be looked at; whoever writes says that they cannot
        keep_private(home.state)
        _log_in(home)
        (home.state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of a path only
    os.environ.setdefault("PREFECT_HOME", str(home.state / "prefect"))
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(home.dvc_site))
    if home.dvc_site == home.state / "dvc-site":
        keep_private(home.dvc_site)  # DVC would make it for everybody
    os.environ.setdefault("MPLCONFIGDIR", str(home.state / "matplotlib"))
    os.environ.setdefault("XADFLOW_PROJECT", str(home.project))
    name_the_user()
    binaries = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != binaries:
        os.environ["PATH"] = os.pathsep.join([binaries, path])


def prefect_origin() -> str:
    """The address of the Prefect server that this process is to be, from $XADFLOW_PREFECT_ORIGIN."""
    return os.environ["XADFLOW_PREFECT_ORIGIN"]


def server_environment(home: Home, prefect: str) -> dict[str, str]:
    """What guards a Prefect server at this address and lets its own clients in: the login, its own origin alone, CSRF.

    Beside it MLflow's: its user is the same login.
    """
    login = login_of(home.state)
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login.pair,
        "PREFECT_API_AUTH_STRING": login.pair,
        "XADFLOW_PREFECT_ORIGIN": prefect,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": prefect,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "MLFLOW_TRACKING_USERNAME": login.user,
        "MLFLOW_TRACKING_PASSWORD": login.password,
    }


def _log_in(home: Home) -> None:
    """Give this process the login where it talks to the project's own servers; what the user set stays.

    A run without PREFECT_API_URL starts a short-lived Prefect server: that one asks for the login too.
    """
    api, tracking = home.prefect_api_url, os.environ.get("MLFLOW_TRACKING_URI", "")
    if api is None:
        with suppress(OSError):  # a state that may only be read can be looked at; no server starts there
            for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
                os.environ.setdefault(name, login_of(home.state).pair)
    elif is_own_server(home.state, api, "prefect"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login_of(home.state).pair)
    if is_own_server(home.state, tracking, "mlflow"):
        login = login_of(home.state)
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", login.user)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", login.password)
