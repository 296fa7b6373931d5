"""What to mend on a board, the gravest first, each with what mends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgernn.devices.boards.report import Report

__all__ = ["Advice", "advise"]

LITTLE_DISK = 500 * 2**20
LITTLE_MEMORY = 150 * 2**20
HOT_C = 80.0
SLOW_GOVERNORS = ("powersave", "conservative")
SPARING_GOVERNORS = ("ondemand", "schedutil")


@dataclass(frozen=True)
class Advice:
    """One thing that is not as it should be."""

    weight: int
    """100: nothing works; 50: it may fail after hours; 10: it could be better."""
    what: str
    mend: str
    """A command, or what to do by hand."""


def advise(report: Report) -> list[Advice]:
    """Return what to mend, the gravest first."""
    found = [advice for rule in RULES for advice in rule(report)]
    return sorted(found, key=lambda advice: -advice.weight)


def _runtimes(report: Report) -> Iterator[Advice]:
    works = [trial for trial in report.trials if not trial.fault]
    if not works:
        yield Advice(100, "no runtime works here, so no model does", f"{_pip()} ai-edge-litert")
    for trial in report.trials:
        if trial.fault and trial.provider in ("", "cpu"):
            package = "onnxruntime" if trial.provider else "ai-edge-litert"
            mend = f"{_pip()} --force-reinstall --no-cache-dir {package}"
            if trial.runtime == "tflite-runtime":
                mend = f"{_pip()} 'numpy<2', or take LiteRT instead: {_pip()} ai-edge-litert"
            yield Advice(90 if works else 99, f"{trial.runtime} is installed and does not work: {trial.fault}", mend)
        elif trial.fault:
            yield Advice(35, f"{trial.runtime} has {trial.provider}, which does not work: {trial.fault}", CUDA)


def _pip() -> str:
    """Return how this very Python gets packages: on a board it is root's, in an environment, not the first `pip`."""
    return f"{'' if os.access(sys.prefix, os.W_OK) else 'sudo '}{sys.executable} -m pip install"


def _power(report: Report) -> Iterator[Advice]:
    now, ever = report.vitals.limits() or {}, report.vitals.limits(since_start=True) or {}
    supply = "take the board's own power supply and a short, thick cable; put USB devices on a hub that has its own"
    if now.get("under-voltage"):
        yield Advice(85, "the voltage is too low just now: the board slows down, and may corrupt its card", supply)
    elif ever.get("under-voltage"):
        yield Advice(75, "the voltage was too low at times since the start", supply)
    hot = ("throttled", "soft temperature limit", "frequency capped")
    cool = "give it a heat sink or a fan, and air; then: vcgencmd measure_temp"
    if any(now.get(name) for name in hot) and not now.get("under-voltage"):
        yield Advice(70, "it is too hot, and slowed down just now", cool)
    elif any(ever.get(name) for name in hot) and not ever.get("under-voltage"):
        yield Advice(55, "it was too hot, and slowed down at times since the start", cool)


def _heat(report: Report) -> Iterator[Advice]:
    temperature = report.vitals.temperature_c
    if temperature is not None and temperature >= HOT_C:
        yield Advice(60, f"the processor has {temperature:.0f} °C", "give it a heat sink or a fan, and air")


def _disk(report: Report) -> Iterator[Advice]:
    if report.disk_free_bytes is not None and report.disk_free_bytes < LITTLE_DISK:
        left = f"{report.disk_free_bytes / 2**20:.0f} MiB of disk are left"
        yield Advice(80, left, "sudo journalctl --vacuum-size=50M; sudo apt-get clean; df -h /")


def _memory(report: Report) -> Iterator[Advice]:
    if report.available_bytes is not None and report.available_bytes < LITTLE_MEMORY:
        left = f"{report.available_bytes / 2**20:.0f} MiB of memory are left"
        if report.swap_bytes:
            yield Advice(65, left, "end what else runs: ps -eo rss,comm --sort=-rss | head")
            return
        swap = (
            "sudo fallocate -l 512M /swapfile; sudo chmod 600 /swapfile; sudo mkswap /swapfile; sudo swapon /swapfile"
        )
        yield Advice(65, f"{left}, and there is no swap", swap)


def _clock(report: Report) -> Iterator[Advice]:
    if report.clock_synchronised is False:
        yield Advice(45, "the clock is not synchronised: events carry wrong times", "sudo timedatectl set-ntp true")


def _sound(report: Report) -> Iterator[Advice]:
    if report.portaudio_fault:
        mend = report.portaudio_fault.rpartition(": ")[2] or "pip install 'edgernn[audio]'"
        yield Advice(40, f"microphones cannot be asked for: {report.portaudio_fault}", mend)
    elif not report.microphones and not report.sound_cards:
        yield Advice(15, "there is no microphone", "plug one in; then: arecord -l")
    if report.sound_cards and not report.in_audio_group:
        mend = 'sudo usermod -aG audio "$USER", and log in anew'
        yield Advice(42, "this user is not in the group audio, and may not record", mend)


def _speed(report: Report) -> Iterator[Advice]:
    mend = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    if report.machine.governor in SLOW_GOVERNORS:
        yield Advice(30, f"the clock stays low (governor {report.machine.governor})", mend)
    elif report.machine.governor in SPARING_GOVERNORS:
        what = (
            f"the clock follows the load (governor {report.machine.governor}): single steps take several times longer"
        )
        yield Advice(10, what, mend)
    if report.bits == 32:
        what = "the system has 32 bits, for which neither LiteRT nor ONNX Runtime has packages"
        yield Advice(50, what, "write the card anew with the 64-bit system (devices/raspberry-pi.md)")
    if report.kind == "jetson" and report.jetson_mode and not report.jetson_mode.startswith("MAXN"):
        mode = report.jetson_highest
        mend = f"sudo nvpmodel -m {mode}" if mode else "see the modes: grep POWER_MODEL /etc/nvpmodel.conf"
        yield Advice(12, f"the power mode {report.jetson_mode} holds the clocks down", mend)


def _gpu(report: Report) -> Iterator[Advice]:
    tried = {trial.provider for trial in report.trials}
    if report.kind == "jetson" and "cuda" not in tried:
        yield Advice(11, "ONNX Runtime has no CUDA here; small recurrent models hardly miss it", CUDA)


def _service(report: Report) -> Iterator[Advice]:
    if not report.systemd:
        yield Advice(
            20,
            "systemd does not run here, so nothing starts the daemon again",
            "have what starts programs here run: edgernn serve CONFIG",
        )


CUDA = "install the onnxruntime-gpu of this JetPack (devices/jetson.md)"
Rule = Callable[[Report], Iterator[Advice]]
RULES: tuple[Rule, ...] = (
    _runtimes, _power, _heat, _disk, _memory, _clock, _sound, _speed, _gpu, _service,
)  # fmt: skip
