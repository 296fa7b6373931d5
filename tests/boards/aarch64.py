"""A Raspberry Pi in emulation: Debian for 64-bit ARM under QEMU, with EdgeRNN installed as a user installs it.

Debian's packages are unpacked into a folder, and programs run in it as its root, child processes too: in namespaces of
their own, so that neither the machine is changed nor root is needed. Found while making it: ONNX Runtime and LiteRT
end in a segmentation fault unless /proc/cpuinfo and /sys/devices/system/cpu are those of the emulated processor, and
QEMU 7.2 computes int8 wrongly as "-cpu max". Emulated time says nothing about a real board's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["BOARDS", "EXTRAS", "PACKAGES", "Board", "UnsuitedError", "cache_folder", "prepare"]

SUITE, PYTHON, QEMU = "bookworm", "3.11", "qemu-aarch64-static"
PACKAGES = ("python3-venv", "libportaudio2", "alsa-utils", "rsync")
"""What the guide to the Raspberry Pi has its user install."""
ALWAYS = ("base-files", "coreutils", "dash", "libc-bin")
"""Of what every Debian has: its folders, its programs, a shell, the linker's cache."""
EXTRAS = {"edgernn": "litert,onnx,audio,serve,mqtt,sign", "older": "tflite"}
"""What is installed, by the environment in /opt: each as a board's user would choose it."""
ALSO = {"older": ("tflite-runtime==2.14.0", "numpy<2")}  # pip reads conditions as this machine's Python has them
PLATFORMS = [
    f"manylinux_{version}_aarch64" for version in ("2_34", "2_31", "2_28", "2_27", "2_26", "2_17")
]  # pip widens none of them
TRIES, WAIT_S = 3, 5.0
LIMIT_S = 300.0

BOARDS = {
    "cortex-a72": ("Raspberry Pi 4 Model B Rev 1.4", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "Raspberry Pi 5 Model B Rev 1.0",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""QEMU's name of a processor: the board it is on, its part number, and what the kernel says of it."""

# Since Linux 6.7 a user namespace has its own table of which program runs the binaries of which processor.
ENTER = r"""
set -e
board=$1 processor=$2 shared=$3; shift 3
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' ':aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'\
':\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'"$board/QEMU:OPF" \
    >/proc/sys/fs/binfmt_misc/register
mount --rbind /dev "$board/root/dev"
mount --rbind /proc "$board/root/proc"
mount --bind "$board/$processor/cpuinfo" "$board/root/proc/cpuinfo"
mount --bind "$board/$processor/sys" "$board/root/sys"
mount --bind "$shared" "$board/root$shared"
chroot=$(PATH=$PATH:/usr/sbin command -v chroot)
PATH=/opt/edgernn/bin:/usr/sbin:/usr/bin exec "$chroot" "$board/root" "$@"
""".replace("QEMU", QEMU)


class UnsuitedError(Exception):
    """This machine cannot emulate a board; the message says why."""


class Board:
    """An emulated board whose files are in a folder; it sees the folder `shared` under the same path."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder, self.shared = folder, shared
        (folder / "root" / shared.relative_to("/")).mkdir(parents=True, exist_ok=True)

    def start(self, *words: str | Path, cpu: str = "cortex-a72", **options: Any) -> subprocess.Popen[str]:
        """Start a program of the board. The process is the program's own: it takes signals."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": cpu,
                       "OMP_NUM_THREADS": "1", **options.pop("env", {})}  # fmt: skip
        enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ENTER, "enter"]
        command = [*enter, self.folder, cpu, self.shared, *words]
        return subprocess.Popen(list(map(str, command)), env=environment, text=True, **options)

    def run(self, *words: str | Path, cpu: str = "cortex-a72") -> subprocess.CompletedProcess[str]:
        """Run a program of the board to its end."""
        pipe = subprocess.PIPE
        with self.start(*words, cpu=cpu, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(words), process.returncode, out, err)

    def must(self, *words: str | Path) -> str:
        """Run a program, and return what it wrote to standard output; raise `RuntimeError` if it fails."""
        done = self.run(*words)
        if done.returncode:
            raise RuntimeError(f"on the emulated board: {' '.join(map(str, words))}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def install(self, wheel: Path) -> None:
        """Install the wheel, which the board sees, into /opt, with each of `EXTRAS`, by the board's own pip.

        What else was installed for an earlier wheel stays, if pip finds that it is what this one asks for.
        """
        wheels = _bring_wheels(self.folder / "root", wheel)
        for name, extras in EXTRAS.items():
            place = self.folder / "root/opt" / name
            made = place / "made"
            if not made.exists():
                shutil.rmtree(place, ignore_errors=True)
                # Without a pip of its own, which takes half a minute, but for the first
                bare = [] if name == "edgernn" else ["--without-pip"]
                self.must("python3", "-m", "venv", *bare, f"/opt/{name}")
            made.unlink(missing_ok=True)  # what ends half-way is made anew
            for old in (place / "lib" / f"python{PYTHON}" / "site-packages").glob("edgernn*"):
                shutil.rmtree(old)
            # Byte code is written when a module is first imported: all of it at once takes most of a minute here.
            self.must(
                "/opt/edgernn/bin/pip", "--python", f"/opt/{name}/bin/python", "install", "--quiet", "--no-compile",
                "--no-index", "--find-links", f"/{wheels.name}", f"{wheel}[{extras}]",
            )  # fmt: skip
            made.touch()


def prepare(folder: Path, shared: Path) -> Board:
    """Bring the board into a folder, unless it is there; raise `UnsuitedError` where this machine cannot run it."""
    _check_machine()
    known = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = folder / "prepared"
    if not stamp.exists() or stamp.read_text() != known:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack_debian(folder)
        for cpu in BOARDS:
            _fake_processor(folder / cpu, cpu)
        Board(folder, shared).must("ldconfig")
        stamp.write_text(known)
    return Board(folder, shared)


def _check_machine() -> None:
    for program in ("apt-get", "dpkg-deb", "unshare", "tar"):
        if shutil.which(program) is None:
            raise UnsuitedError(f"the board is made of Debian's packages, and here is no {program}")
    own = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", own], capture_output=True, text=True
    )
    if tried.returncode:
        why = tried.stderr.strip()
        raise UnsuitedError(f"programs for ARM cannot be run in namespaces of their own (Linux 6.7 or later): {why}")


def _run(*command: str | Path, cwd: Path, tries: int = 1) -> str:
    """Run a program of this machine; what needs the network is tried again."""
    for left in range(tries, 0, -1):
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return result.stdout
        if left > 1:
            time.sleep(WAIT_S)
    words = " ".join(map(str, command))
    raise RuntimeError(f"the emulated board cannot be prepared: {words[:200]}: {result.stderr.strip()[-600:]}")


def _unpack_debian(folder: Path) -> None:
    """Unpack QEMU for this machine, and Python and its libraries for ARM, with package lists of their own."""
    apt, root = folder / "apt", folder / "root"
    for place in ("lists/partial", "cache/archives/partial"):
        (apt / place).mkdir(parents=True)
    (apt / "status").touch()
    own = _run("dpkg", "--print-architecture", cwd=folder).strip()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keys}] {_mirror()} {SUITE} main\n")
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": f"arm64,{own}", "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false", "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
    }  # fmt: skip
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *flags, "update", "-qq", "--error-on=any", cwd=folder, tries=TRIES)
    _run("apt-get", *flags, "install", "-y", "-qq", "--download-only", *ALWAYS, *PACKAGES, cwd=folder, tries=TRIES)
    _run("apt-get", *flags, "download", "-qq", f"qemu-user-static:{own}", cwd=folder, tries=TRIES)
    (emulator,) = folder.glob("qemu-user-static_*.deb")
    _unpack(emulator, folder / "unpacked")
    (folder / "unpacked" / "usr" / "bin" / QEMU).rename(folder / QEMU)
    for place in ("bin", "sbin", "lib"):  # as each Debian has them by now
        (root / "usr" / place).mkdir(parents=True)
        (root / place).symlink_to(f"usr/{place}")
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _unpack(package, root)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    shutil.rmtree(folder / "unpacked")
    shutil.rmtree(apt)
    emulator.unlink()


def _unpack(package: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    piped = 'dpkg-deb --fsys-tarfile "$1" | tar --extract --keep-directory-symlink --no-same-owner'
    _run("bash", "-o", "pipefail", "-c", piped, "unpack", package, cwd=into)


def _mirror() -> str:
    """Return where this machine has its Debian packages from."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = [path.read_text(encoding="utf-8") for path in places if path.is_file()]
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s*(\S+/debian/?)(?:\s|$)", "\n".join(texts), re.MULTILINE)
    if found is None:
        raise UnsuitedError("the board is made of Debian's packages, and no mirror of Debian is known to apt")
    return found[1]


def _fake_processor(folder: Path, cpu: str) -> None:
    """Write what the kernel would say of the board: the runtimes choose their kernels by its processor."""
    model, part, features = BOARDS[cpu]
    cores = range(4)
    info = "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
        for core in cores
    )
    _write(folder / "cpuinfo", info + f"Revision\t: c03114\nModel\t\t: {model}\n")
    _write(folder / "sys/firmware/devicetree/base/model", model + "\0")
    _write(folder / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    _write(folder / "sys/class/thermal/thermal_zone0/temp", "48312\n")
    system = folder / "sys/devices/system/cpu"
    for name, text in {"possible": "0-3", "present": "0-3", "online": "0-3", "kernel_max": "3"}.items():
        _write(system / name, text + "\n")
    for core in cores:
        topology = {"physical_package_id": "0", "core_id": str(core), "core_siblings_list": "0-3",
                    "cluster_cpus_list": "0-3", "package_cpus_list": "0-3"}  # fmt: skip
        for name, text in topology.items():
            _write(system / f"cpu{core}" / "topology" / name, text + "\n")
        clock = {"cpuinfo_max_freq": "1500000", "cpuinfo_min_freq": "600000", "scaling_cur_freq": "600000",
                 "scaling_governor": "ondemand"}  # fmt: skip
        for name, text in clock.items():
            _write(system / f"cpu{core}" / "cpufreq" / name, text + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _bring_wheels(folder: Path, wheel: Path) -> Path:
    """Download what the wheel needs on the board, unless what it needs is there; return the folder."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = re.findall(r"^Requires-Dist: .*$", archive.read(metadata).decode(), re.MULTILINE)
    target = folder / ("wheels-" + hashlib.sha256("\n".join(needed).encode()).hexdigest()[:16])
    if target.exists():
        return target
    unfinished = folder / "wheels-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for name, extras in EXTRAS.items():
        _run(
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", PYTHON,
            "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none", *platforms,
            "-d", unfinished, f"{wheel}[{extras}]", *ALSO.get(name, ()), cwd=folder, tries=TRIES,
        )  # fmt: skip
    (unfinished / wheel.name).unlink()
    return unfinished.rename(target)


def cache_folder() -> Path:
    """Return where the board is kept: EDGERNN_BOARD_CACHE, or .cache/boards in the repository."""
    given = os.environ.get("EDGERNN_BOARD_CACHE")
    return Path(given) if given else Path(__file__).parents[2] / ".cache" / "boards"
