"""Who announced a commit: a seal over its intent, by a key or a secret that does not lie in the state folder.

Whoever can write to var/ can append rows and write an intent that names them. Only the account of the runs has the
signing key (evidence.signing_key) and the secret of the account (`Home.writer_secret`), so only its intents carry a
seal that holds.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from xadflow.evidence.signing import SigningKey
from xadflow.settings.private import draw_once, keep_private, others_may

logger = logging.getLogger(__name__)

_PREFIX = b"xadflow intent\n"
_LEAST_BYTES = 32


@dataclass(frozen=True)
class Seals:
    """Makes and checks seals; with neither key nor secret it makes none, and nothing can be told of an intent."""

    key: SigningKey | None = field(default=None, repr=False)
    secret: bytes | None = field(default=None, repr=False)

    @property
    def can_tell(self) -> bool:
        """Whether there is a key or a secret."""
        return self.key is not None or self.secret is not None

    def seal(self, content: bytes) -> str:
        """Seal of these bytes: `ed25519:...` where there is a key, else `hmac:...`, or empty without a secret."""
        if self.key is not None:
            return f"ed25519:{self.key.sign(_PREFIX + content)}"
        return "" if self.secret is None else f"hmac:{_hmac(self.secret, content)}"

    def holds(self, content: bytes, seal: str) -> bool:
        """Whether a seal over these bytes was made by this key or this secret."""
        kind, _, value = seal.partition(":")
        if kind == "ed25519" and self.key is not None:
            return self.key.public.verifies(_PREFIX + content, value)
        if kind == "hmac" and self.secret is not None and value.isascii():
            return hmac.compare_digest(_hmac(self.secret, content), value)
        return False


def account_secret(path: Path | None, state: Path) -> bytes | None:
    """The secret of this account, drawn at first need; None where the account has no place of its own for it.

    Args:
        path: the secret's file; None: the account has no home folder.
        state: a secret below this folder is none: whoever writes there could read it.
    """
    try:
        if path is None or path.resolve().is_relative_to(state.resolve()):
            return None
        if not path.exists():
            keep_private(path.parent)
            draw_once(path, secrets.token_hex(_LEAST_BYTES) + "\n")
        if open_to := others_may(path):
            logger.warning("the secret of this account is not for it alone (%s): it announces no commit", open_to)
            return None
        content = path.read_bytes().strip()
    except OSError as err:
        logger.warning("this account has no place for a secret, so nobody can tell who announced a commit: %s", err)
        return None
    return content if len(content) >= _LEAST_BYTES else None


def _hmac(secret: bytes, content: bytes) -> str:
    return hmac.digest(secret, _PREFIX + content, "sha256").hex()
