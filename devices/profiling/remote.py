"""Measuring artifacts on boards over SSH: what they need is copied, run and fetched; nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgernn.artifact import MANIFEST, Artifact
from edgernn.devices.profiling.link import Address, Keys, Link, connected
from edgernn.devices.profiling.parcel import download, edgernn_archive, fitting, glibc, packages, unpacked_bytes
from edgernn.devices.runner import RUNTIMES, Runtime
from edgernn.errors import BoardError, EdgeRNNError
from edgernn.profile import Profile

__all__ = ["Job", "measure_on"]

Say = Callable[[str], None]
START = "import sys; from edgernn.cli import main; sys.exit(main())"
COMPILE = """
import compileall, sys
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None) or ""
    if path.startswith(sys.argv[1]) and path.endswith(".py"):
        compileall.compile_file(path, quiet=1)
"""
OLDEST = [3, 10]
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """What is to be measured on each board."""

    artifacts: tuple[Artifact, ...]
    options: tuple[str, ...]
    """Of `edgernn profile` there."""
    command: tuple[str, ...]
    """The one here, which is in the results."""
    runtimes: tuple[str, ...]
    """Those that will do, the best first."""
    wheels: tuple[Path, ...] = ()
    python: str = ""
    keys: Keys = field(default_factory=Keys)


def measure_on(boards: Sequence[Address], job: Job, say: Say) -> tuple[list[Profile], list[str], bool]:
    """Measure on all boards at once; return results, a message for each board that gave none, and whether Ctrl-C came.

    The first Ctrl-C ends the measurements and fetches what they have; the second gives up, and removes what is there.
    """
    visits = [_Visit(board, job, say) for board in boards]
    asyncio.run(_measure_all(visits, say))
    profiles = [profile for visit in visits for profile in visit.profiles]
    return profiles, [visit.failure for visit in visits if visit.failure], any(visit.stopped for visit in visits)


async def _measure_all(visits: Sequence[_Visit], say: Say) -> None:
    loop, presses = asyncio.get_running_loop(), itertools.count(1)
    tasks = [asyncio.create_task(visit.make()) for visit in visits]

    def interrupt() -> None:
        last = next(presses) > 1
        say("giving up" if last else "stopping; once more gives up what was measured")
        for visit, task in zip(visits, tasks, strict=True):
            visit.interrupt(task, give_up=last)

    with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C gives up at once
        loop.add_signal_handler(signal.SIGINT, interrupt)
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


class _Visit:
    """All that is done on one board; what fails there stops no other."""

    def __init__(self, board: Address, job: Job, say: Say) -> None:
        self.board, self.job = board, job
        self.profiles: list[Profile] = []
        self.failure = ""
        self.stopped = False
        self._measuring: Link | None = None
        self._tell = say

    async def make(self) -> None:
        """Copy, run, fetch, remove."""
        try:
            await self._make()
        except EdgeRNNError as error:
            self.failure = "" if self.stopped else str(error)

    def interrupt(self, task: asyncio.Task[None], give_up: bool) -> None:
        """End the measurement early and keep it, or where there is none yet, leave."""
        self.stopped = True
        if give_up or self._measuring is None:
            task.cancel()
        else:
            self._measuring.stop()

    async def _make(self) -> None:
        self._say("connecting")
        async with connected(self.board, self.job.keys, self.job.python or "python3") as link:
            await self._prepare(link)
            folders = await _copy(link, self.job.artifacts)
            found = await self._measure(link, folders)
        where = link.facts["folder"]
        self._say(f"done, and {where} is gone" if link.left else f"{where} may still be there")
        profiles = [Profile.from_dict(values) for values in found.get("profiles", [found])]
        self.profiles = [replace(profile, on=self.board.text, command=self.job.command) for profile in profiles]

    async def _measure(self, link: Link, folders: Sequence[str]) -> Mapping[str, Any]:
        command = [self._python, "-c", START, "profile", *folders, *self.job.options]
        self._measuring = link
        await link.run(
            "edgernn profile",
            [*command, "--json", "result.json", "--progress"],
            _environment(link),
            self._say,
            good=(0, INTERRUPTED),
        )
        self._measuring = None
        found: Mapping[str, Any] = json.loads(await link.read("result.json"))
        return found

    async def _prepare(self, link: Link) -> None:
        """Put EdgeRNN there, and what it needs where that is missing."""
        facts = link.facts
        version = ".".join(map(str, facts["version"]))
        if facts["version"][:2] < OLDEST:
            raise BoardError(
                f"{self.board.text} has Python {version}; EdgeRNN needs 3.10 or later: name one with --python"
            )
        self._say(f"Python {version} on {facts['machine']}, in {facts['folder']}")
        await link.write("edgernn.zip", edgernn_archive())
        await link.unpack("edgernn.zip", "site")
        if "numpy" not in facts["has"] or not _usable(self.job, facts, ()):
            await self._install(link)
        await self._compile(link)

    async def _install(self, link: Link) -> None:
        """Unpack wheels beside EdgeRNN: they are ZIP files, and need neither pip nor a network nor to be installed."""
        facts = link.facts
        wheels = fitting(self.job.wheels, facts["version"], facts["machine"], glibc(facts["libc"]))
        have = packages(wheels)
        usable = _usable(self.job, facts, have)
        if not usable or ("numpy" not in have and "numpy" not in facts["has"]):
            raise BoardError(_lacking(link, self.job))
        needed = sum(map(unpacked_bytes, wheels)) + max(wheel.stat().st_size for wheel in wheels)
        if facts["free"] < needed:
            raise BoardError(
                f"{self.board.text}: {facts['folder']} has {facts['free'] / 1e6:.0f} MB left, and the wheels take "
                f"{needed / 1e6:.0f} MB: make room, or have TMPDIR name another folder there"
            )
        self._say(f"copying {len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.1f} MB")
        for wheel in wheels:
            await link.write(wheel.name, wheel.read_bytes())
            await link.unpack(wheel.name, "site")

    async def _compile(self, link: Link) -> None:
        """Compile what was brought and will be imported: cold starts find byte code, as where it is installed."""
        facts = link.facts
        first, *others = _usable(self.job, facts, packages(self.job.wheels))
        script = f"import numpy, {first.module}, edgernn.devices.profile, edgernn.devices.profiling.one_round\n"
        script += "".join(f"try: import {item.module}\nexcept Exception: pass\n" for item in others)
        command = [self._python, "-c", script + COMPILE, f"{facts['folder']}/"]
        await link.run("importing NumPy and the runtime", command, _environment(link), lambda line: None)

    @property
    def _python(self) -> str:
        return self.job.python or "python3"

    def _say(self, line: str) -> None:
        self._tell(f"{self.board.text}: {line}")


async def _copy(link: Link, artifacts: Sequence[Artifact]) -> list[str]:
    """Put the artifacts there, each in a folder of its own; return these."""
    folders = []
    for number, artifact in enumerate(artifacts):
        folder = f"{number}/{artifact.path.resolve().name}"
        listed = json.loads((artifact.path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in [MANIFEST, *listed]:
            await link.write(f"{folder}/{name}", (artifact.path / name).read_bytes())
        folders.append(folder)
    return folders


def _environment(link: Link) -> dict[str, str]:
    """Return variables with which a Python there finds what was brought, and leaves nothing outside the folder."""
    folder = link.facts["folder"]
    return {"PYTHONPATH": f"{folder}/site", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder}


def _usable(job: Job, facts: Mapping[str, Any], wheels: Collection[str]) -> list[Runtime]:
    """Return the runtimes that are there or in the wheels, the best first."""
    runtimes = [RUNTIMES[name] for name in job.runtimes]
    return [item for item in runtimes if item.package in wheels or _module(item) in facts["has"]]


def _module(runtime: Runtime) -> str:
    return runtime.module.partition(".")[0]


def _lacking(link: Link, job: Job) -> str:
    """Return what is missing on the board and how it gets there."""
    facts, board = link.facts, link.address.text
    version = ".".join(map(str, facts["version"]))
    wanted = " or ".join(RUNTIMES[name].package for name in job.runtimes)
    missing = [*([] if "numpy" in facts["has"] else ["NumPy"])]
    if not _usable(job, facts, ()):
        missing.append(f"a runtime ({wanted})")
    tell = f"{board}: {job.python or 'python3'} lacks {' and '.join(missing)}"
    if job.wheels:
        tell += f", and --wheels has none that fit Python {version} on {facts['machine']}"
    get = download(RUNTIMES[job.runtimes[0]].package, facts["version"], facts["machine"], glibc(facts["libc"]))
    return (
        f"{tell}: get wheels by\n  {get}\nand say --wheels wheels; or name a Python there that has them with --python"
    )
