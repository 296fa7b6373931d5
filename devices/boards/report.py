"""Everything about a board that `edgernn doctor` tells, read from its files and its own programs."""

from __future__ import annotations

import grp
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgernn.devices.boards.jetson import Tegrastats, highest_mode, power_mode, read_release, read_tegrastats
from edgernn.devices.boards.tiny_models import try_apart
from edgernn.devices.boards.tools import Ask, ask
from edgernn.devices.boards.vitals import Vitals, read_vitals
from edgernn.devices.providers import PROVIDERS
from edgernn.devices.runner import RUNTIMES
from edgernn.devices.sources.microphone import list_microphones
from edgernn.errors import EdgeRNNError
from edgernn.machine import describe_machine
from edgernn.profile import Machine
from edgernn.text import one_line

__all__ = ["Report", "Trial", "examine", "try_runtimes"]


@dataclass(frozen=True)
class Trial:
    """One runtime, on one execution provider, tried with a model of one operator."""

    runtime: str
    provider: str
    """Of ONNX Runtime; "" for the others."""
    version: str
    delegates: tuple[str, ...]
    """What computed it."""
    fault: str
    """"" where it works."""


@dataclass(frozen=True)
class Report:
    """A board. What it does not tell is None, or empty."""

    kind: str
    """"raspberry-pi", "jetson" or "pc"."""
    machine: Machine
    bits: int
    """Of the programs, not of the processor."""
    vitals: Vitals
    memory_bytes: int | None
    available_bytes: int | None
    swap_bytes: int | None
    disk_bytes: int | None
    disk_free_bytes: int | None
    jetson_release: str
    jetson_mode: str
    jetson_highest: str | None
    """Number of the mode without limits."""
    tegrastats: Tegrastats | None
    sound_cards: tuple[str, ...]
    """As ALSA names them."""
    sound_server: str
    microphones: tuple[str, ...]
    """As PortAudio names them."""
    portaudio_fault: str
    """Why PortAudio cannot be asked; "" where it can."""
    in_audio_group: bool
    cameras: Mapping[str, str]
    """Device to name."""
    clock_synchronised: bool | None
    systemd: str
    """Its version; "" where it does not run."""
    trials: tuple[Trial, ...]


def examine(root: Path = Path("/"), asking: Ask = ask, trying: Callable[[], tuple[Trial, ...]] | None = None) -> Report:
    """Read /proc, /sys, /dev and /etc below `root`, and ask the board's programs."""
    machine, memory = describe_machine(root), _memory(root)
    release = read_release(_text(root / "etc/nv_tegra_release"))
    model = machine.board
    kind = "raspberry-pi" if "Raspberry Pi" in model else "jetson" if release or "Jetson" in model else "pc"
    microphones, portaudio_fault = _microphones() if root == Path("/") else ((), "")
    total, free = _disk(root)
    return Report(
        kind=kind,
        machine=machine,
        bits=64 if platform.architecture()[0] == "64bit" else 32,
        vitals=read_vitals(root, asking),
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        disk_bytes=total,
        disk_free_bytes=free,
        jetson_release=release,
        jetson_mode=power_mode(asking(["nvpmodel", "-q"]) or "") if kind == "jetson" else "",
        jetson_highest=highest_mode(_text(root / "etc/nvpmodel.conf")),
        tegrastats=read_tegrastats(asking(["tegrastats"]) or "") if kind == "jetson" else None,
        sound_cards=tuple(re.findall(r"^ *\d+ \[.*?\]: (.*)$", _text(root / "proc/asound/cards"), re.MULTILINE)),
        sound_server=_sound_server(asking),
        microphones=microphones,
        portaudio_fault=portaudio_fault,
        in_audio_group=os.geteuid() == 0 or "audio" in _groups(),
        cameras={f"/dev/{path.name}": _text(path / "name") for path in sorted(_cameras(root))},
        clock_synchronised=_clock(asking),
        systemd=_systemd(root, asking),
        trials=try_runtimes() if trying is None else trying(),
    )


def try_runtimes() -> tuple[Trial, ...]:
    """Try every runtime that is installed; ONNX Runtime on every execution provider that it was built with."""
    trials = []
    for name, runtime in RUNTIMES.items():
        if find_spec(runtime.module.partition(".")[0]) is None:
            continue
        for provider in _built_in() if name == "onnxruntime" else ("",):
            found: Mapping[str, Any] = try_apart(name, provider)
            delegates = tuple(found.get("delegates", ()))
            trials.append(Trial(name, provider, found.get("version", ""), delegates, found["fault"]))
    return tuple(trials)


def _built_in() -> list[str]:
    try:
        import onnxruntime
    except Exception:  # an ImportError, or whatever a half-installed package raises; its trial says so
        return ["cpu"]
    available = onnxruntime.get_available_providers()
    return [name for name, wanted in PROVIDERS.items() if wanted[0] in available]


def _memory(root: Path) -> dict[str, int]:
    found = re.findall(r"^(\w+): +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return {name: 1024 * int(value) for name, value in found}


def _disk(root: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return None, None
    return usage.total, usage.free


def _microphones() -> tuple[tuple[str, ...], str]:
    try:
        return tuple(name for _, name, _, _ in list_microphones()), ""
    except EdgeRNNError as error:
        return (), str(error)
    except Exception as error:  # PortAudio's own, where it cannot be started
        return (), one_line(error)


def _sound_server(asking: Ask) -> str:
    found = re.search(r"^Server Name: (.*)$", asking(["pactl", "info"]) or "", re.MULTILINE)
    return found[1] if found else ""


def _groups() -> set[str]:
    names = set()
    for number in os.getgroups():
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names


def _cameras(root: Path) -> list[Path]:
    folder = root / "sys/class/video4linux"
    return [path for path in folder.glob("video*") if (root / "dev" / path.name).exists()]


def _clock(asking: Ask) -> bool | None:
    told = asking(["timedatectl", "show", "-p", "NTPSynchronized", "--value"])
    return {"yes": True, "no": False}.get((told or "").strip())


def _systemd(root: Path, asking: Ask) -> str:
    if not (root / "run/systemd/system").is_dir():
        return ""
    return ((asking(["systemctl", "--version"]) or "systemd").splitlines() or ["systemd"])[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return ""
