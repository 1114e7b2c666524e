"""Recognise exports of this machine, by a signature with a key in the user's data folder.

Opening a file of a format with `FormatRow.code` runs a program. A sidecar's digests cannot show who wrote it: whoever
changes the file can change its digests. The signature covers these digests, so nobody without the key can make one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_KEY_BYTES = 32


def key_file() -> Path:
    """Return the path of the key, in `$XDG_DATA_HOME` or `~/.local/share`."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return Path(home if os.path.isabs(home) else os.path.expanduser("~/.local/share"), "bnn-keras", "key")


def sign(digests: Mapping[str, str]) -> str:
    """Return the signature of the digests of an export. Create the key on first use.

    Raises:
        OSError: The key cannot be read or written.
    """
    file = key_file()
    if not file.exists():
        _create(file)
    return _signature(_read(file), digests)


def is_signed(digests: Mapping[str, str], signature: str | None) -> bool:
    """Return whether `sign` made the signature on this machine for these digests."""
    try:
        expected = _signature(_read(key_file()), digests)
    except OSError:
        return False
    return hmac.compare_digest(expected.encode(), (signature or "").encode("ascii", "replace"))


def _signature(key: bytes, digests: Mapping[str, str]) -> str:
    return hmac.new(key, json.dumps(digests, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _read(file: Path) -> bytes:
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{str(file)!r} has {len(key)} bytes; expected {_KEY_BYTES}")
    return key


def _create(file: Path) -> None:
    """Write a new key, readable by the user only. The key of another process that was faster is kept."""
    if not file.is_absolute():
        raise OSError("no home folder")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
