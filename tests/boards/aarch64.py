"""A Raspberry Pi 4 in emulation: Python and the runtimes of 64-bit ARM, under QEMU, on this machine.

Nothing is installed: Debian's packages and the wheels for ARM are unpacked into a folder, which stays there. Found
while making it: ONNX Runtime and LiteRT end in a segmentation fault unless /proc/cpuinfo and /sys/devices/system/cpu
are those of the emulated processor, and QEMU 7.2 computes int8 wrongly as "-cpu max". Emulated time says nothing
about a real board's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BOARDS", "Board", "cache_folder", "prepare"]

SUITE, PYTHON, QEMU = "bookworm", "3.11", "qemu-aarch64-static"
PLATFORMS = (
    "manylinux_2_34_aarch64",
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux2014_aarch64",
)  # pip widens none of them
WHEELS = {
    "new": ["numpy", "onnxruntime", "ai-edge-litert", "flatbuffers", "protobuf", "packaging", "backports.strenum",
            "tqdm", "typing_extensions"],
    "old": ["numpy<2", "tflite-runtime==2.14.0"],
}  # fmt: skip
"""What is unpacked into a folder for each generation of runtimes; `--no-deps` keeps out what a step does not need."""
BOARDS = {
    "cortex-a72": ("Raspberry Pi 4 Model B Rev 1.4", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "Raspberry Pi 5 Model B Rev 1.0",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""QEMU's name of a processor: the board it is on, its part number, and what the kernel says of it."""


class Board:
    """An emulated board whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def python(
        self, *arguments: str | Path, wheel: Path, wheels: str = "new", cpu: str = "cortex-a72"
    ) -> subprocess.CompletedProcess[str]:
        """Run Python on the board with the unpacked `wheel` and runtimes; child processes are not emulated."""
        root = self.folder / f"root-{cpu}"
        command: Sequence[str | Path] = [
            self.folder / QEMU, "-cpu", cpu, "-L", root,
            "-E", f"PYTHONHOME={root / 'usr'}", "-E", f"PYTHONPATH={wheel}:{self.folder / wheels}",
            "-E", "PYTHONDONTWRITEBYTECODE=1", "-E", "OMP_NUM_THREADS=1",
            root / "usr" / "bin" / f"python{PYTHON}", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def prepare(folder: Path) -> Board:
    """Bring the board into a folder, unless it is there; raise `RuntimeError` saying what is missing for it."""
    done = folder / "prepared"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack_qemu(folder)
        _unpack_debian(folder)
        for name, wheels in WHEELS.items():
            _unpack_wheels(folder, name, wheels)
        done.touch()
    return Board(folder)


def _run(*command: str | Path, cwd: Path) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        words = " ".join(map(str, command))
        raise RuntimeError(f"the emulated board cannot be prepared: {words[:200]}: {result.stderr.strip()[-600:]}")


def _unpack_qemu(folder: Path) -> None:
    """Unpack this machine's own package of QEMU."""
    _run("apt-get", "download", "-qq", "qemu-user-static", cwd=folder)
    (package,) = folder.glob("qemu-user-static_*.deb")
    _run("dpkg-deb", "-x", package, folder / "unpacked", cwd=folder)
    (folder / "unpacked" / "usr" / "bin" / QEMU).rename(folder / QEMU)
    shutil.rmtree(folder / "unpacked")
    package.unlink()


def _unpack_debian(folder: Path) -> None:
    """Unpack Python and its libraries for ARM, with package lists of their own."""
    apt = folder / "apt"
    for place in ("lists/partial", "cache/archives/partial"):
        (apt / place).mkdir(parents=True)
    (apt / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keys}] {_mirror()} {SUITE} main\n")
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false", "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
    }  # fmt: skip
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *flags, "update", "-qq", cwd=folder)
    _run("apt-get", *flags, "install", "-y", "-qq", "--download-only", "python3", "libstdc++6", cwd=folder)
    for cpu in BOARDS:
        root = folder / f"root-{cpu}"
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            _run("dpkg-deb", "-x", package, root, cwd=folder)
        _fake_processor(root, cpu)
    shutil.rmtree(apt)


def _mirror() -> str:
    """Return where this machine has its Debian packages from."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = [path.read_text(encoding="utf-8") for path in places if path.is_file()]
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s*(\S+/debian/?)(?:\s|$)", "\n".join(texts), re.MULTILINE)
    if found is None:
        raise RuntimeError("the emulated board is made of Debian's packages, and no mirror of Debian is known to apt")
    return found[1]


def _fake_processor(root: Path, cpu: str) -> None:
    """Write what the kernel would say of the processor: the runtimes choose their kernels by it."""
    model, part, features = BOARDS[cpu]
    cores = range(4)
    info = "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
        for core in cores
    )
    _write(root / "proc/cpuinfo", info + f"Revision\t: c03114\nModel\t\t: {model}\n")
    system = root / "sys/devices/system/cpu"
    for name, text in {"possible": "0-3", "present": "0-3", "online": "0-3", "kernel_max": "3"}.items():
        _write(system / name, text + "\n")
    for core in cores:
        topology = {"physical_package_id": "0", "core_id": str(core), "core_siblings_list": "0-3",
                    "cluster_cpus_list": "0-3", "package_cpus_list": "0-3"}  # fmt: skip
        for name, text in topology.items():
            _write(system / f"cpu{core}" / "topology" / name, text + "\n")
        for name, text in {"cpuinfo_max_freq": "1500000", "cpuinfo_min_freq": "600000"}.items():
            _write(system / f"cpu{core}" / "cpufreq" / name, text + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _unpack_wheels(folder: Path, name: str, wheels: Sequence[str]) -> None:
    """Unpack wheels for the board's Python into a folder of this name."""
    target = folder / f"{name}-wheels"
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps",
        "--python-version", PYTHON, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none",
        *platforms, "-d", target, *wheels, cwd=folder,
    )  # fmt: skip
    for wheel in target.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / name)
    shutil.rmtree(target)


def cache_folder() -> Path:
    """Return where the board is kept: EDGERNN_BOARD_CACHE, or .cache/boards in the repository."""
    given = os.environ.get("EDGERNN_BOARD_CACHE")
    return Path(given) if given else Path(__file__).parents[2] / ".cache" / "boards"
