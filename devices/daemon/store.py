"""Artifacts that a daemon runs: its own copies, each proven before it takes over, and the last good one kept.

    STATE/artifacts/3f2a91c0…/keyword/       a copy, by the digest of its manifest and its signature
    STATE/artifacts/hall.json                which copy the pipeline "hall" last took, where that came from, and which
                                             one it had before

What is written over, half copied or taken away where the configuration has it changes nothing of a pipeline that runs,
and at the next start the last good copy is there. A model may also kill the process, at once or a little later, again
and again: before one is opened, the note says that this run begins with it, and only what lasted (`prove`) makes the
one before it dispensable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from edgernn.artifact import MANIFEST, MOST_MANIFEST, SIGNATURE, Artifact
from edgernn.devices.daemon.config import StoreConfig
from edgernn.devices.signing import TrustedKey, check_signature, read_trusted
from edgernn.errors import ArtifactError, EdgeRNNError, FailureError, NotThereError
from edgernn.files import read_file
from edgernn.text import one_line

__all__ = ["Note", "Store", "check_trusted", "trusted_keys"]

INCOMING = ".incoming-"
MOST_NOTE = 65536  # bytes
UNFIT = (FailureError, NotThereError)  # of an artifact; what else is wrong is the configuration
MOST_DEATHS = 2  # of runs that had just begun with an artifact; the next one takes that before it
THIS_RUN = secrets.token_hex(4)
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """What a pipeline took."""

    artifacts: tuple[str, ...] = ()
    """Where the configuration has them."""
    copies: tuple[str, ...] = ()
    """Theirs, by folder of the store."""
    before: tuple[str, ...] = ()
    """Copies that it had before: none once `copies` are proven."""
    begun: tuple[str, ...] = ()
    """Runs of the daemon that began with `copies`, and may have died of them."""

    @property
    def is_deadly(self) -> bool:
        """Whether earlier runs did not outlive the copies, and there are others."""
        return bool(self.before) and len({*self.begun} - {THIS_RUN}) >= MOST_DEATHS


def trusted_keys(config: StoreConfig) -> list[TrustedKey]:
    """Read the keys of which one must have signed an artifact; none if any artifact will do."""
    return [read_trusted(key) for key in config.trusted_keys]


def check_trusted(folder: Path, trusted: Collection[TrustedKey]) -> None:
    """Raise `SignatureError` for an artifact that none of the keys signed, if there are any keys."""
    if trusted:
        check_signature(folder, trusted)


class Store:
    """The copies, in a folder that no other daemon uses."""

    def __init__(self, folder: Path, trusted: Collection[TrustedKey] = (), refused: Counter[str] | None = None) -> None:
        self._folder, self._trusted = folder, trusted
        self.refused = Counter[str]() if refused is None else refused
        """By name: how often an artifact was not taken, and the last good one went on instead."""
        self.unfit: dict[str, str] = {}
        """By name, where the last good artifact goes on: why the one configured was not taken."""
        self._taken: dict[str, tuple[str, ...]] = {}

    def take(self, name: str, sources: Sequence[Path], opener: Callable[[Sequence[Path]], T]) -> T:
        """Return what `opener` makes of copies of some artifacts, or of the last good ones from the same places.

        `name` is what it is for. Raises what is wrong if there are no good ones.
        """
        note = self._note(name)
        try:
            copies = [self._keep(source) for source in sources]
            fresh = self._begin(name, note, sources, copies)
        except UNFIT as error:
            return self._last_good(name, note, sources, opener, error)
        try:
            opened = opener(copies)
        except UNFIT as error:
            self._write(name, note)
            return self._last_good(name, note, sources, opener, error)
        except BaseException:
            self._write(name, note)
            raise
        self._taken[name] = fresh.copies
        self._sweep()
        return opened

    def prove(self) -> None:
        """Note that what was taken has lasted: the daemon ran with it for a while, or ended as it should."""
        for name, copies in self._taken.items():
            note = self._note(name)
            if note.copies == copies and (note.before or note.begun):
                self._write(name, replace(note, before=(), begun=()))
        self._sweep()

    def _begin(self, name: str, note: Note, sources: Sequence[Path], copies: Sequence[Path]) -> Note:
        """Note that this run begins with some copies; raise `ArtifactError` if others died of them."""
        fresh = self._next(note, sources, copies)
        if fresh.is_deadly:
            where = self._folder / fresh.copies[0]
            raise ArtifactError(f"{where} ended the daemon {MOST_DEATHS} times just after it had begun with it")
        self._write(name, fresh)
        return fresh

    def _next(self, old: Note, sources: Sequence[Path], copies: Sequence[Path]) -> Note:
        """Return the note of a run that begins with some copies."""
        note = Note(tuple(map(str, sources)), tuple(str(copy.relative_to(self._folder)) for copy in copies))
        if old.artifacts != note.artifacts:
            return replace(note, begun=(THIS_RUN,))
        if old.copies != note.copies:
            return replace(note, before=old.before or old.copies, begun=(THIS_RUN,))
        if not old.begun or THIS_RUN in old.begun:
            return old
        return replace(old, begun=(*old.begun, THIS_RUN)[-MOST_DEATHS - 1 :])

    def retain(self, names: Collection[str]) -> None:
        """Forget all names but these."""
        for note in self._folder.glob("*.json"):
            if note.stem not in names:
                with contextlib.suppress(OSError):  # of a disk that can only be read
                    note.unlink(missing_ok=True)
        self._taken = {name: copies for name, copies in self._taken.items() if name in names}
        self._sweep()

    def _last_good(
        self, name: str, note: Note, sources: Sequence[Path], opener: Callable[[Sequence[Path]], T], error: EdgeRNNError
    ) -> T:
        if note.artifacts != tuple(map(str, sources)):
            raise error
        kept = [note.before] if note.is_deadly or not note.copies else [note.copies, note.before]
        worst: EdgeRNNError = error
        for names in filter(None, kept):
            try:
                copies = [self._folder / copy for copy in names]
                for copy in copies:
                    self._check(copy)
                opened = opener(copies)
            except UNFIT as worse:
                worst = ArtifactError(f"{error}; nor is the last good one well: {worse}")
                continue
            self._taken[name] = names
            self.refused[name] += 1
            self.unfit[name] = one_line(error)
            _log.error("%s: the last good artifact goes on: %s", name, error)
            return opened
        raise worst from error

    def _check(self, folder: Path) -> Artifact:
        check_trusted(folder, self._trusted)
        return Artifact.open(folder)

    def _keep(self, source: Path) -> Path:
        """Return a whole copy of an artifact; one that is there already is not written again."""
        artifact, digest = self._check(source), _digest(source)
        target = self._folder / digest / (source.name or "artifact")
        with contextlib.suppress(ArtifactError, NotThereError):
            self._check(target)
            return target
        try:
            self._copy(artifact, digest, target)
        except OSError as error:
            raise ArtifactError(f"{source} cannot be copied to {target}: {error.strerror}") from error
        return target

    def _copy(self, artifact: Artifact, digest: str, target: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=INCOMING, dir=self._folder))
        try:
            fresh = scratch / target.name
            fresh.mkdir()
            signature = [SIGNATURE] if (artifact.path / SIGNATURE).exists() else []
            for name in (MANIFEST, *signature, *artifact.files):
                shutil.copyfile(artifact.path / name, fresh / name)
                _to_disk(fresh / name)
            self._check(fresh)
            if _digest(fresh) != digest:
                raise ArtifactError(f"{artifact.path} changed while it was copied")
            for folder in (fresh, scratch):
                _to_disk(folder)
            shutil.rmtree(target.parent, ignore_errors=True)  # which is there only if it is broken
            scratch.rename(target.parent)
            _to_disk(self._folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _write(self, name: str, note: Note) -> None:
        if note == self._note(name):
            return
        fresh, path = self._folder / f"{INCOMING}{name}", self._folder / f"{name}.json"
        try:
            fresh.write_text(json.dumps(asdict(note)) + "\n")
            _to_disk(fresh)
            fresh.replace(path)
            _to_disk(self._folder)
        except OSError as error:  # a full disk: what was good before stays so
            _log.warning("%s: %s cannot be written: %s", name, path, error.strerror)

    def _note(self, name: str) -> Note:
        try:
            note = json.loads(read_file(self._folder / f"{name}.json", MOST_NOTE))
            known = {field: tuple(note.get(field, ())) for field in Note.__dataclass_fields__}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return Note()
        fits = all(isinstance(text, str) for values in known.values() for text in values)
        return Note(**known) if fits else Note()

    def _sweep(self) -> None:
        """Take away copies that nobody needs; what a stream still reads stays until it is closed, though unseen."""
        notes = [self._note(note.stem) for note in self._folder.glob("*.json")]
        copies = [*self._taken.values()]  # of which a full disk may have no note
        copies += [names for note in notes for names in (note.copies, note.before)]
        wanted = {Path(copy).parts[:1] for names in copies for copy in names}
        for folder in self._folder.glob("*"):
            if folder.is_dir() and (folder.name,) not in wanted:
                shutil.rmtree(folder, ignore_errors=True)


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for name in (MANIFEST, SIGNATURE):
        with contextlib.suppress(FileNotFoundError):
            found.update(read_file(folder / name, MOST_MANIFEST))
        found.update(b"\0")
    return found.hexdigest()[:16]


def _to_disk(path: Path) -> None:
    """Have a file or a folder written before what comes next, so that a power cut leaves the old or the new one."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
