"""What machine this is, as far as the kernel tells."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgernn.profile import Machine

__all__ = ["describe_machine", "describe_processor", "int8_overflows", "resident_bytes"]

# Those that a runtime's kernels are chosen by. What else a kernel lists changes no result.
_X86 = "avx avx2 avx512_bf16 avx512_vnni avx512bw avx512dq avx512f avx512vl avx_vnni amx_int8 amx_tile f16c fma sse4_1"
_ARM = "asimd asimddp asimdhp bf16 fphp i8mm neon sve sve2 vfpv4"
_KNOWN = frozenset(f"{_X86} {_ARM}".split())
# Implementer and part of the cores of Raspberry Pis and Jetsons
_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def describe_machine(root: Path = Path("/")) -> Machine:
    """Read /proc and /sys below `root`; what is not there stays empty."""
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    heat = _read(root / "sys/class/thermal/thermal_zone0/temp")
    return Machine(
        board=_read(root / "proc/device-tree/model") or _read(root / "sys/firmware/devicetree/base/model"),
        cpu=_cpu(_read(root / "proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        governor=_read(cpu),
        temperature_c=int(heat) / 1000 if re.fullmatch(r"-?\d+", heat) else None,
    )


def describe_processor(root: Path = Path("/")) -> str:
    """Return architecture and instruction set in one line, as "aarch64 asimd 0xd08"; reads /proc below `root`.

    On the same ones, the same version of a runtime takes the same kernels. On ARM the part's number ends the line:
    there, kernels are written for one kind of core.
    """
    text = _read(root / "proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)
    found = sorted(_KNOWN.intersection(flags[1].split() if flags else ()))
    return " ".join([platform.machine(), *found, *([part[1]] if part else [])])


def resident_bytes(root: Path = Path("/")) -> int:
    """Return how much memory of this process is in RAM; zero where the kernel does not tell."""
    fields = _read(root / "proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def int8_overflows(root: Path = Path("/"), architecture: str = "") -> bool:
    """Whether ONNX Runtime's fast 8-bit products may overflow here: on x86 without VNNI, or where nobody tells.

    There it adds pairs of products in 16 bits, unless it is told to be precise (session.x64quantprecision); with VNNI
    that would only be slower.
    """
    x86 = (architecture or platform.machine()).lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return x86 and "vnni" not in _read(root / "proc/cpuinfo")


def _cpu(cpuinfo: str) -> str:
    """Return the model of the CPU: of ARM's cores by their number, as kernels name the board there, or nothing."""
    implementer, part = (
        re.search(rf"^CPU {key}\s*:\s*(\S+)$", cpuinfo, re.MULTILINE) for key in ("implementer", "part")
    )
    if implementer and part and (implementer[1], part[1]) in _PARTS:
        return _PARTS[implementer[1], part[1]]
    for key in ("model name", "Model", "Hardware"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return f"CPU part {part[1]}" if part else platform.processor() or "unknown CPU"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00 \n")
    except OSError:
        return ""
