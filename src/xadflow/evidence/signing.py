"""Ed25519 keys that sign and check the ledger's heads, from PEM files. No key material in any repr, log or error.

Make a pair by `openssl genpkey -algorithm ed25519 -out signing.pem` and
`openssl pkey -in signing.pem -pubout -out signing.pub.pem`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xadflow.errors import BadSettings, WrongUse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

logger = logging.getLogger(__name__)

_MAKE_PAIR = "make a pair by `openssl genpkey -algorithm ed25519 -out signing.pem`"
_MAKE_PUBLIC = "write the public half by `openssl pkey -in signing.pem -pubout -out signing.pub.pem`"


@dataclass(frozen=True)
class PublicKey:
    """The half that checks: what a quality manager keeps."""

    _key: Ed25519PublicKey = field(repr=False)

    def verifies(self, content: bytes, signature: str) -> bool:
        """Whether `signature`, base64, is that of the private half over `content`."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(base64.b64decode(signature, validate=True), content)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The half that signs: what only the account of the nightly runs may read."""

    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, content: bytes) -> str:
        """Signature over `content`, base64."""
        return base64.b64encode(self._key.sign(content)).decode()

    @property
    def public(self) -> PublicKey:
        """The half that checks."""
        return PublicKey(self._key.public_key())


def load_signing_key(path: Path) -> SigningKey:
    """The private key of a PEM file without a passphrase: nobody is there at night to type one.

    Raises:
        BadSettings: no such file, no PEM, a passphrase, another kind of key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    raw = _read(path, BadSettings, "evidence.signing_key", _MAKE_PAIR)
    try:
        key = load_pem_private_key(raw, password=None)
    except TypeError:
        raise _refused(BadSettings, "evidence.signing_key has a passphrase", path, _MAKE_PAIR) from None
    except (ValueError, UnsupportedAlgorithm):  # not chained: a parser's words may quote what it parsed
        raise _refused(BadSettings, "evidence.signing_key is no private key in PEM form", path, _MAKE_PAIR) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _refused(BadSettings, "evidence.signing_key is not of the kind Ed25519", path, _MAKE_PAIR)
    if path.stat().st_mode & 0o077:
        logger.warning("other accounts can read evidence.signing_key; run `chmod 600` on it")
    return SigningKey(key)


def load_public_key(path: Path) -> PublicKey:
    """The public key of a PEM file.

    Raises:
        WrongUse: no such file, no PEM, a private key, another kind of key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    raw = _read(path, WrongUse, "the public key", _MAKE_PUBLIC)
    if b"PRIVATE KEY" in raw:
        raise _refused(WrongUse, "that is a private key; it must not leave the machine that signs", path, _MAKE_PUBLIC)
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise _refused(WrongUse, "no public key in PEM form", path, _MAKE_PUBLIC) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _refused(WrongUse, "the public key is not of the kind Ed25519", path, _MAKE_PUBLIC)
    return PublicKey(key)


def _read(path: Path, error: type[WrongUse], what: str, next_step: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise error(f"{what} cannot be read", seen=f"{path.name}: {err.strerror}", next_step=next_step) from err


def _refused(error: type[WrongUse], wrong: str, path: Path, next_step: str) -> WrongUse:
    return error(wrong, seen=path.name, next_step=next_step)
