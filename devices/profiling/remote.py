"""Measuring artifacts on boards over SSH: what they need is copied, run and fetched; nothing stays behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgernn.artifact import MANIFEST, Artifact
from edgernn.devices.profiling.link import Address, Keys, Link, connected
from edgernn.devices.profiling.parcel import edgernn_archive, fitting, packages
from edgernn.devices.runner import RUNTIMES, Runtime
from edgernn.errors import BoardError, EdgeRNNError
from edgernn.profile import Profile

__all__ = ["Job", "measure_on"]

Say = Callable[[str], None]
START = "import sys; from edgernn.cli import main; sys.exit(main())"
OLDEST = [3, 10]


@dataclass(frozen=True)
class Job:
    """What is to be measured on each board."""

    artifacts: tuple[Artifact, ...]
    options: tuple[str, ...]
    """Of `edgernn profile` there."""
    runtimes: tuple[str, ...]
    """Those that will do, the best first."""
    wheels: tuple[Path, ...] = ()
    python: str = ""
    keys: Keys = field(default_factory=Keys)


def measure_on(boards: Sequence[Address], job: Job, say: Say) -> tuple[list[Profile], list[str]]:
    """Measure on all boards at once; return the results, and a message for each board that gave none."""

    async def measure_all() -> list[list[Profile] | EdgeRNNError]:
        return await asyncio.gather(*(_caught(board, job, say) for board in boards))

    outcomes = asyncio.run(measure_all())
    profiles = [profile for outcome in outcomes if isinstance(outcome, list) for profile in outcome]
    return profiles, [str(outcome) for outcome in outcomes if isinstance(outcome, EdgeRNNError)]


async def _caught(board: Address, job: Job, say: Say) -> list[Profile] | EdgeRNNError:
    """One board that fails does not stop the others."""
    try:
        return await _measure(board, job, lambda line: say(f"{board.text}: {line}"))
    except EdgeRNNError as error:
        return error


async def _measure(board: Address, job: Job, say: Say) -> list[Profile]:
    say("connecting")
    async with connected(board, job.keys, job.python or "python3") as link:
        python = await _prepare(link, job, say)
        folders = await _copy(link, job.artifacts)
        arguments = [*python, "-c", START, "profile", *folders, *job.options, "--json", "result.json", "--progress"]
        environment = {"PYTHONPATH": f"{link.facts['folder']}/site", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "."}
        await link.run("edgernn profile", arguments, environment, say)
        found = json.loads(await link.read("result.json"))
    say(f"done, and {link.facts['folder']} is gone" if link.left else f"{link.facts['folder']} may still be there")
    profiles = found.get("profiles", [found])
    return [replace(Profile.from_dict(values), on=board.text) for values in profiles]


async def _prepare(link: Link, job: Job, say: Say) -> list[str]:
    """Put EdgeRNN there, and what it needs where that is missing; return the Python to use."""
    facts, board = link.facts, link.address.text
    version = ".".join(map(str, facts["version"]))
    if facts["version"][:2] < OLDEST:
        raise BoardError(f"{board} has Python {version}; EdgeRNN needs 3.10 or later: name one with --python")
    say(f"Python {version} on {facts['machine']}, in {facts['folder']}")
    await link.write("edgernn.zip", edgernn_archive())
    await link.unpack("edgernn.zip", "site")
    there = [name for name in job.runtimes if _module(RUNTIMES[name]) in facts["has"]]
    if "numpy" in facts["has"] and there:
        return [job.python or "python3"]
    if job.python or not job.wheels:
        raise BoardError(_lacking(link, job, version))
    return await _install(link, job, say, version)


async def _install(link: Link, job: Job, say: Say, version: str) -> list[str]:
    """Make an environment of wheels there, without a network."""
    facts, board = link.facts, link.address.text
    wheels = fitting(job.wheels, facts["version"], facts["machine"])
    have, known = packages(wheels), set(facts["has"])
    runtimes = [name for name in job.runtimes if RUNTIMES[name].package in have]
    if not runtimes or not ({"numpy"} & (have | known)):
        raise BoardError(_lacking(link, job, version))
    if "venv" not in known or not {"pip", "ensurepip"} & known:
        raise BoardError(
            f"{board}: its Python can install no wheels, for it has neither pip nor ensurepip: sudo apt install "
            "python3-venv there, or name a Python that has NumPy and a runtime with --python"
        )
    size = sum(wheel.stat().st_size for wheel in wheels)
    if facts["free"] < 5 * size:
        raise BoardError(
            f"{board}: {facts['folder']} has {facts['free'] / 1e6:.0f} MB left, and wheels of {size / 1e6:.0f} MB take "
            "five times that: make room, or have TMPDIR name another folder there"
        )
    say(f"copying {len(wheels)} wheels, {size / 1e6:.1f} MB")
    for wheel in wheels:
        await link.write(f"wheels/{wheel.name}", wheel.read_bytes())
    wanted = [*(["numpy"] if "numpy" in have else []), *(RUNTIMES[name].package for name in runtimes)]
    say(f"installing {', '.join(wanted)}")
    quiet: Say = lambda line: None  # noqa: E731
    python, folder = ["env/bin/python"], {"TMPDIR": facts["folder"]}
    await link.run("venv", ["python3", "-m", "venv", "--without-pip", "--system-site-packages", "env"], folder, quiet)
    if "pip" not in known:
        await link.run("ensurepip", [*python, "-m", "ensurepip"], folder, quiet)
    pip = ["-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "install", "--no-index"]
    await link.run("pip", [*python, *pip, "--find-links", "wheels", *wanted], folder, quiet)
    return python


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


def _module(runtime: Runtime) -> str:
    return runtime.module.partition(".")[0]


def _lacking(link: Link, job: Job, version: str) -> str:
    """Return what is missing on the board and how it gets there."""
    facts, board = link.facts, link.address.text
    wanted = " or ".join(RUNTIMES[name].package for name in job.runtimes)
    missing = [*([] if "numpy" in facts["has"] else ["NumPy"])]
    if not any(_module(RUNTIMES[name]) in facts["has"] for name in job.runtimes):
        missing.append(f"a runtime ({wanted})")
    python = job.python or "python3"
    if job.python:
        advice = f"{python} -m pip install them there, or leave --python out and give --wheels FOLDER"
    elif job.wheels:
        advice = f"--wheels has none that fit Python {version} on {facts['machine']}"
    else:
        advice = f"give --wheels FOLDER, with wheels for Python {version} on {facts['machine']}, or install them there"
    return f"{board}: {python} lacks {' and '.join(missing)}: {advice}"
