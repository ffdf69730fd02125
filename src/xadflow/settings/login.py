"""The one login of a state folder: who has it may use the Prefect and MLflow servers of that folder, nobody else.

Whoever may use Prefect's API can have commands run by its worker, so a server without a login is a shell for every
user of the machine and every page open in a browser there. The password is drawn at first need, lies in
var/secrets/login, readable by the owner alone, and goes to servers and our own clients by their environment.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from xadflow.digests import sha256_json
from xadflow.errors import WrongUse
from xadflow.settings.private import draw_once, others_may, write_private

USER = "xadflow"
_FILE, _MOST_BYTES = "login", 1000


@dataclass(frozen=True)
class Login:
    """User and password; the password is in no `repr`."""

    user: str
    password: str = field(repr=False)

    @property
    def pair(self) -> str:
        """`user:password`, as Prefect takes it."""
        return f"{self.user}:{self.password}"


def secrets_folder(state: Path) -> Path:
    """var/secrets/, for its owner alone."""
    folder = state / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def login_of(state: Path) -> Login:
    """The login of a state folder, drawn where there is none yet.

    Raises:
        WrongUse: its file can be read by other users, or holds no login.
    """
    path = secrets_folder(state) / _FILE
    if not path.exists():
        draw_once(path, f"{USER}:{secrets.token_urlsafe(32)}\n")
    if open_to := others_may(path):
        raise WrongUse(
            "the login of this project's servers can be read by other users of the machine",
            seen=f"{_shown(path)}: {open_to}",
            next_step=f"remove {_shown(path)} (a new one is drawn) and start the servers again",
        )
    user, _, password = path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace").strip().partition(":")
    if not user or len(password) < 16:
        raise WrongUse(
            "the file with the login of this project's servers holds no login",
            seen=_shown(path),
            next_step=f"remove {_shown(path)}: a new one is drawn",
        )
    return Login(user, password)


def mlflow_login(state: Path) -> dict[str, str]:
    """What MLflow's server with a login needs in its environment: its own file of settings, and the first user.

    MLflow keeps users in a database of its own, var/mlflow-login.db; whoever is not in it may do nothing. When the
    login is another one than that database knows, the database is put aside and made anew.
    """
    login, folder = login_of(state), secrets_folder(state)
    database, known = state / "mlflow-login.db", folder / "mlflow-login-of"
    digest = sha256_json({"login": login.pair})
    if database.exists() and (not known.exists() or known.read_text() != digest):
        database.replace(database.with_suffix(".db.old"))
    write_private(known, digest)
    config = folder / "mlflow-login.ini"
    write_private(
        config,
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{database}\n"
        f"admin_username = {login.user}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
    }


def is_own_server(state: Path, address: str, service: str) -> bool:
    """Whether an address is that of the running `make server` of this state folder; the login goes to no other."""
    try:
        named = json.loads((state / "server.json").read_bytes()[:100_000]).get(service)
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(named, str) and (address == named or address.startswith(f"{named}/"))


def _shown(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
