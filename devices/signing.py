"""Signatures of artifacts: Ed25519 over the manifest, whose digests cover every other file.

Keys are text as OpenSSH writes it, so that `ssh-keygen` makes them and tells their fingerprints, too. The signature is
one line, the signer's public key and the signature itself:

    ssh-ed25519 AAAAC3Nza… MEUCIQ…
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgernn.artifact import MANIFEST, MOST_MANIFEST, SIGNATURE, Artifact
from edgernn.errors import MissingDependencyError, SignatureError, UsageError
from edgernn.files import check_there, read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["TrustedKey", "check_signature", "make_key", "read_key", "read_trusted", "sign"]

PURPOSE = b"edgernn artifact 1\0"  # so that no signature of something else counts as one of an artifact
KIND = "ssh-ed25519"
MOST_KEY = 16384  # bytes


class TrustedKey:
    """A public key; equal to another one of the same bytes."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        serialization, _ = _library()
        encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        self.blob = key.public_bytes(encoding, form).split()[1].decode()
        """In base64, as OpenSSH has it."""
        self._key = key

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` tells it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def has_signed(self, manifest: bytes, signature: bytes) -> bool:
        """Tell whether a signature is this key's, and of these bytes."""
        try:
            self._key.verify(signature, PURPOSE + manifest)
        except Exception:  # InvalidSignature, whose module may not be there to be named
            return False
        return True

    def __eq__(self, other: object) -> bool:
        """Compare the keys."""
        return isinstance(other, TrustedKey) and self.blob == other.blob

    def __hash__(self) -> int:
        """Hash what is compared."""
        return hash(self.blob)


def make_key(path: Path) -> TrustedKey:
    """Write a new key to `path`, for its owner alone, and its public half to `path`.pub."""
    serialization, ed25519 = _library()
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if os.path.lexists(file):
            raise UsageError(f"{file} exists: a key that was lost is lost for ever, so none is replaced; name another")
    key = ed25519.Ed25519PrivateKey.generate()
    trusted = TrustedKey(key.public_key())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    try:
        _write_new(path, private, 0o600)
        _write_new(public, f"{KIND} {trusted.blob} {path.name}\n".encode(), 0o644)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be written: {error.strerror}") from error
    return trusted


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key, of OpenSSH or in PEM."""
    serialization, ed25519 = _library()
    content = _read(path)
    ssh = b"BEGIN OPENSSH" in content
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key: object = load(content, password=None)
    except TypeError as error:
        raise UsageError(f"the key {path} has a password: give one that has none, where only you can read") from error
    except Exception as error:
        raise UsageError(f"{path} is not a private key: make one with edgernn sign --new-key NAME") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path} is a key of another kind: make one of Ed25519 with edgernn sign --new-key NAME")
    private: Ed25519PrivateKey = key
    return private


def read_trusted(key: str, folder: Path = Path()) -> TrustedKey:
    """Read a public key: a line "ssh-ed25519 AAAA…", or the name of a file with one, relative to `folder`."""
    serialization, ed25519 = _library()
    written = key.startswith(f"{KIND} ")
    content = key.encode() if written else _read(folder / Path(key).expanduser())
    where = "the key that is written there" if written else key
    pem = b"-----BEGIN" in content
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    if b"PRIVATE KEY" in content:
        raise UsageError(f"{where} is a private key, which is nobody's to have but the signer's: name its .pub")
    try:
        public = load(content)
    except Exception as error:
        raise UsageError(f"{where} is not a public key: expected a line '{KIND} AAAA…', as in NAME.pub") from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise UsageError(f"{where} is a key of another kind: expected Ed25519 ('{KIND} AAAA…')")
    return TrustedKey(public)


def _read(path: Path) -> bytes:
    check_there(path, "a key, as edgernn sign --new-key writes them")
    try:
        return read_file(path, MOST_KEY)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error


def sign(artifact: Artifact, key: Ed25519PrivateKey) -> TrustedKey:
    """Sign an artifact that was opened, in place of an older signature; return who signed."""
    signer = TrustedKey(key.public_key())
    signature = key.sign(PURPOSE + read_file(artifact.path / MANIFEST, MOST_MANIFEST))
    line = f"{KIND} {signer.blob} {base64.b64encode(signature).decode()}\n"
    handle, scratch = tempfile.mkstemp(prefix=".signature-", dir=artifact.path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(line.encode())
            os.fchmod(handle, 0o644)
        Path(scratch).replace(artifact.path / SIGNATURE)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(scratch).unlink()
        raise
    return signer


def check_signature(folder: Path, trusted: Collection[TrustedKey]) -> TrustedKey:
    """Return which of the keys signed the manifest in `folder`; raise `SignatureError` if none did.

    The other files are covered by the manifest's digests, which `Artifact.open` checks.
    """
    manifest, line = _signed(folder)
    parts = line.split()
    signer = next((key for key in trusted if len(parts) == 3 and key.blob == parts[1]), None)
    expected = f"expected a signature by {_names(trusted)}"
    if signer is None:
        raise SignatureError(
            f"{folder} is signed by nobody who is trusted here: {expected}; sign it with edgernn sign, or trust its key"
        )
    try:
        signature = base64.b64decode(parts[2], validate=True)
    except ValueError:
        signature = b""
    canonical = f"{KIND} {signer.blob} {base64.b64encode(signature).decode()}\n"
    if line != canonical or not signer.has_signed(manifest, signature):
        raise SignatureError(
            f"{folder} was changed after it was signed, or its {SIGNATURE} was: {expected} of what is there now; "
            "copy it again, or sign it anew"
        )
    return signer


def _signed(folder: Path) -> tuple[bytes, str]:
    try:
        line = read_file(folder / SIGNATURE, MOST_KEY).decode("ascii", "replace")
    except FileNotFoundError:
        raise SignatureError(
            f"{folder} is not signed, and only signed artifacts are trusted here: edgernn sign {folder} --key KEY"
        ) from None
    except OSError as error:
        raise SignatureError(f"{folder / SIGNATURE} cannot be read: {error.strerror}") from error
    try:
        return read_file(folder / MANIFEST, MOST_MANIFEST), line
    except OSError as error:
        raise SignatureError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from error


def _names(trusted: Iterable[TrustedKey]) -> str:
    return " or ".join(key.fingerprint for key in trusted)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependencyError("a signature", "cryptography", "sign") from error
    return serialization, ed25519
