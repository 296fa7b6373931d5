"""Which files a configuration needs: what a service that is fenced in must be shown, and could read and write."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import edgernn
from edgernn.devices.daemon.config import Config, SinkConfig, SourceConfig
from edgernn.devices.secret import Secret
from edgernn.devices.uri import split_query
from edgernn.errors import UsageError

__all__ = ["check_readable", "hidden", "in_view", "read_paths", "schemes", "secrets", "sources_of", "written_folders"]

PRIVATE = ("/home", "/root", "/run/user")  # ProtectHome=tmpfs hides them
TEMPORARY = ("/tmp", "/var/tmp")  # PrivateTmp= has others there
TLS_FILES = ("ca", "cert", "key")


def read_paths(file: Path, config: Config, program: Path) -> Iterator[Path]:
    """Yield what the daemon reads, apart from the system's own files and its secrets."""
    yield from (program, Path(sys.prefix), Path(sys.base_prefix))
    yield Path(edgernn.__file__).resolve().parent.parent
    yield from _replaced(file, config)
    yield from (Path(key) for key in config.store.trusted_keys if not key.startswith("ssh-"))
    for pipeline in config.pipelines.values():
        yield from _absolute(pipeline.source.uri, "file", "folder", "csv")
    for sink in config.sinks.values():
        yield from _absolute(sink.uri, "unix")
    for part in _parts(config):
        files = (part.options.get(name) for name in TLS_FILES)
        yield from (Path(name) for name in files if isinstance(name, str) and name.startswith("/"))


def _replaced(file: Path, config: Config) -> Iterator[Path]:
    """Yield what another one may be put in the place of while the daemon runs."""
    yield file
    yield from config.wake.artifact if config.wake else ()
    yield from (pipeline.artifact for pipeline in config.pipelines.values())


def in_view(paths: Iterable[Path], file: Path, config: Config) -> list[Path]:
    """Return what a service must be shown of homes, for it to see `paths`.

    What is replaced is seen anew in its folder alone. Raises `UsageError` where that would be a home with all there is.
    """
    found = {path for path in paths if hidden(path)}
    for path in {path.resolve() for path in _replaced(file, config)} & found:
        if path.parent in (Path("/root"), Path.home()) or path.parent.parent == Path("/home"):
            raise UsageError(f"{path} lies in a home itself, which a service does not see: give it a folder of its own")
        found.add(path.parent)
    return sorted(path for path in found if not found & set(path.parents))


def written_folders(config: Config) -> list[Path]:
    """Return the folders, but for its own, in which the daemon writes events."""
    found = (path for sink in config.sinks.values() for path in _absolute(sink.uri, "json", "sqlite"))
    return sorted({path.parent for path in found})


def secrets(config: Config, kind: str) -> list[str]:
    """Return where secrets of a kind are, each place once."""
    values = (value for part in _parts(config) for value in part.options.values())
    return sorted({value.where for value in values if isinstance(value, Secret) and value.kind == kind})


def sources_of(config: Config) -> list[SourceConfig]:
    """Return the source of each pipeline."""
    return [pipeline.source for pipeline in config.pipelines.values()]


def schemes(parts: Iterable[SourceConfig | SinkConfig]) -> list[str]:
    """Return the schemes in use, each once; what has none is a file, or standard input or output."""
    found = (re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", part.uri) for part in parts)
    return list(dict.fromkeys(match[1].lower() if match else "file" for match in found))


def hidden(path: Path) -> bool:
    """Tell whether a path must be shown in what is else an empty home."""
    return any(path.is_relative_to(home) for home in PRIVATE)


def check_readable(path: Path, user: bool) -> None:
    """Raise `UsageError` where a service could not read: a temporary file, or what is not for everybody.

    `user` is for one that runs as who installs it.
    """
    if any(path.is_relative_to(folder) for folder in TEMPORARY):
        better = "~/.config/edgernn" if user else "/etc/edgernn"
        raise UsageError(f"{path} is a temporary file, which a service does not see: move it, to {better} for one")
    above = [] if hidden(path) else list(path.parents)
    for part in [] if user else [path, *above]:
        wanted = 0o001 if part in above else 0o005 if part.is_dir() else 0o004
        if part.exists() and part.stat().st_mode & wanted != wanted:
            raise UsageError(f"the service's own user cannot read {part}: chmod o+rX '{part}', or move {path}")


def _parts(config: Config) -> list[SourceConfig | SinkConfig]:
    return [*sources_of(config), *config.sinks.values()]


def _absolute(uri: str, *kinds: str) -> list[Path]:
    """Return the path in a URI of some kinds, if it does not depend on the folder the service runs in, its own."""
    scheme, colon, rest = uri.partition(":")
    if not colon or "/" in scheme:
        scheme, rest = "file", uri
    path = Path(re.sub("^//", "", split_query(rest)[0]))
    return [path] if scheme in kinds and path.is_absolute() else []
