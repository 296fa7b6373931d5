"""A password or a token that is never printed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgernn.errors import UsageError
from edgernn.files import read_file

__all__ = ["Secret"]

MOST_BYTES = 65536


@dataclass(frozen=True, repr=False)
class Secret:
    """Where a secret is; it is read when it is used, so that one that was changed counts from the next use on.

    >>> str(Secret("text", "hunter2")), f"{Secret('env', 'TOKEN')!r}"
    ('***', '***')
    """

    kind: str
    """"file", "credential" (in systemd's `$CREDENTIALS_DIRECTORY` or, before a service is installed, where it will be
    taken from), "env", or "text" for the secret itself."""
    where: str

    def reveal(self) -> str:
        """Return the secret, without the line break at a file's end; raise `UsageError` if it cannot be read."""
        if self.kind == "text":
            return self.where
        if self.kind == "env":
            if self.where not in os.environ:
                raise UsageError(f"the environment variable {self.where} for a secret is not set")
            return os.environ[self.where]
        path = self._path()
        try:
            return read_file(path, MOST_BYTES).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(f"the secret {path} cannot be read: {reason}") from error

    def _path(self) -> Path:
        if self.kind == "file":
            return Path(self.where)
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is not None:
            return Path(folder, self.where)
        own = os.environ.get("XDG_CONFIG_HOME") or f"{os.environ.get('HOME', '')}/.config"
        stores = [Path("/etc/credstore"), Path(own, "credstore")]
        found = next((path for store in stores if os.path.lexists(path := store / self.where)), None)
        if found is None:
            places = " or ".join(str(store / self.where) for store in stores)
            raise UsageError(
                f"the credential {self.where} is neither where systemd has it ($CREDENTIALS_DIRECTORY) nor where "
                f"install-service has it from ({places}): put it there, or use {{ file = … }} or {{ env = … }}"
            )
        return found

    def __repr__(self) -> str:
        """Return stars."""
        return "***"
