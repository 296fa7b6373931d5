"""edgernn doctor on trees of files like those of boards, with recorded output of their tools. Not run on hardware."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgernn.cli import main
from edgernn.devices.boards import tiny_models
from edgernn.devices.boards.advice import advise
from edgernn.devices.boards.jetson import read_tegrastats
from edgernn.devices.boards.report import Report, Trial, examine
from edgernn.devices.boards.tools import Ask, ask
from edgernn.devices.doctor import as_text

Capture = pytest.CaptureFixture[str]
WORKS = (Trial("litert", "", "2.3.0", ("XNNPACK",), ""),)

# `vcgencmd get_throttled` of a Pi 3: github.com/raspberrypi/firmware/issues/615
PI_THROTTLED = "throttled=0x50005\n"
PI_WAS_THROTTLED = "throttled=0x50000\n"
# … and of a Pi 3B+ whose kernel's own file says 0: github.com/raspberrypi/linux/issues/2367
PI_WAS_HOT = "throttled=0x80008\n"
# `tegrastats` of a Jetson Nano: github.com/evanmayer/effex/issues/12
NANO_STATS = (
    "RAM 1464/3964MB (lfb 214x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [90%@1479,16%@1479,0%@1479,9%@1479] EMC_FREQ 6%@1600 GR3D_FREQ 7%@768 APE 25 PLL@28C CPU@32C PMIC@50C "
    "GPU@28.5C AO@37C thermal@30.25C POM_5V_IN 2746/2911 POM_5V_GPU 159/161 POM_5V_CPU 796/989\n"
)
# … of a Xavier NX with cores that are off, and /etc/nv_tegra_release of an AGX Orin (JetPack 5.1.2), as public guides
# to these boards show them
XAVIER_STATS = (
    "RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,1%@1905,0%@1907,off,off] "
    "EMC_FREQ 0%@1600 GR3D_FREQ 0%@[510] VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C AO@37.5C GPU@37.5C PMIC@50C "
    "VDD_IN 5079mW/5079mW VDD_CPU_GPU_CV 696mW/696mW VDD_SOC 1104mW/1104mW\n"
)
ORIN_RELEASE = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
    "DATE: Tue Aug  1 19:57:35 UTC 2023\n"
)
PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/meminfo": "MemTotal:        3884344 kB\nMemAvailable:    3300000 kB\nSwapTotal:        102396 kB\n",
    "proc/asound/cards": " 0 [Device         ]: USB-Audio - USB PnP Sound Device\n"
    "                      C-Media Electronics Inc. USB PnP Sound Device at usb-1.2, full speed\n",
    "sys/class/video4linux/video0/name": "HD Pro Webcam C920\n",
    "dev/video0": "",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61835\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "run/systemd/system/x": "",
}
JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": ORIN_RELEASE,
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def tools(**told: str) -> Ask:
    told = {"timedatectl": "yes\n", "systemctl": "systemd 252 (252.39-1~deb12u1)\n+PAM\n", **told}

    def asking(words: Sequence[str]) -> str | None:
        return told.get(words[0])

    return asking


def report_of(root: Path, files: dict[str, str], trials: tuple[Trial, ...] = WORKS, **told: str) -> Report:
    found = examine(tree(root, files), tools(**told), lambda: trials)
    return replace(
        found, bits=64, in_audio_group=True, disk_free_bytes=10**10
    )  # this machine's, which the tree has not


def test_raspberry_pi(tmp_path: Path) -> None:
    report = report_of(tmp_path, PI, vcgencmd="throttled=0x0\n", pactl="Server Name: PulseAudio (on PipeWire 1.2.7)\n")
    assert (report.kind, report.machine.board) == ("raspberry-pi", "Raspberry Pi 4 Model B Rev 1.4")
    assert report.cameras == {"/dev/video0": "HD Pro Webcam C920"}
    assert report.sound_cards == ("USB-Audio - USB PnP Sound Device",)
    assert report.memory_bytes == 3884344 * 1024
    assert report.systemd.startswith("systemd 252")
    assert advise(report) == []
    text = as_text(report, [])
    assert "temperature  61.8 °C" in text
    assert "never since the start" in text
    assert "PulseAudio (on PipeWire 1.2.7)" in text
    assert text.endswith("nothing to mend")


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (PI_THROTTLED, "the voltage is too low just now"),
        (PI_WAS_THROTTLED, "the voltage was too low at times since the start"),
        (PI_WAS_HOT, "it is too hot, and slowed down just now"),
        ("throttled=0xe0000\n", "it was too hot, and slowed down at times since the start"),
    ],
)
def test_throttling(told: str, what: str, tmp_path: Path) -> None:
    (advice,) = advise(report_of(tmp_path, PI, vcgencmd=told))
    assert advice.what.startswith(what)


def test_what_is_gravest_comes_first(tmp_path: Path) -> None:
    files = {
        **PI,
        "proc/meminfo": "MemTotal: 426000 kB\nMemAvailable: 60000 kB\nSwapTotal: 0 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    }
    broken = (Trial("onnxruntime", "cpu", "", (), "its process ended with signal 4"),)
    report = report_of(tmp_path, files, broken, vcgencmd=PI_THROTTLED, timedatectl="no\n")
    report = replace(report, disk_free_bytes=1000, bits=32, in_audio_group=False)
    found = advise(report)
    expected = ["no runtime works", "onnxruntime is installed and does not work: its process", "the voltage is too low",
                "0 MiB of disk", "59 MiB of memory are left, and there is no swap", "the system has 32 bits",
                "the clock is not synchronised", "this user is not in the group audio", "the clock follows the load",
                ]  # fmt: skip
    assert [one.what.startswith(words) for one, words in zip(found, expected, strict=True)] == [True] * len(expected)
    assert found[0].mend.endswith(f"{sys.executable} -m pip install ai-edge-litert")
    assert "mkswap" in found[4].mend


def test_jetson(tmp_path: Path) -> None:
    cuda = Trial("onnxruntime", "cuda", "1.18.0", ("CUDAExecutionProvider",), "")
    told = {"nvpmodel": "NV Power Mode: 15W\n0\n", "tegrastats": NANO_STATS}
    report = report_of(tmp_path, {**PI, **JETSON}, (*WORKS, cuda), **told)
    assert (report.kind, report.jetson_release, report.jetson_mode) == ("jetson", "R35.4.1", "15W")
    assert report.tegrastats is not None
    assert report.tegrastats.power_mw == {"POM_5V_IN": 2746, "POM_5V_GPU": 159, "POM_5V_CPU": 796}
    (advice,) = advise(report)
    assert advice.mend == "sudo nvpmodel -m 2"
    assert "POM_5V_IN 2746 mW" in as_text(report, [])
    without = report_of(tmp_path, {**PI, **JETSON}, nvpmodel="NV Power Mode: MAXN_SUPER\n2\n")
    assert [one.what.startswith("ONNX Runtime has no CUDA here") for one in advise(without)] == [True]


def test_tegrastats() -> None:
    nano, xavier = read_tegrastats(NANO_STATS), read_tegrastats(XAVIER_STATS)
    assert nano is not None
    assert xavier is not None
    assert (nano.gpu_percent, nano.cores_off, nano.temperatures_c["CPU"]) == (7, 0, 32.0)
    assert (xavier.gpu_percent, xavier.cores_off, xavier.temperatures_c["CPU"]) == (0, 2, 39.5)
    assert xavier.power_mw == {"VDD_IN": 5079, "VDD_CPU_GPU_CV": 696, "VDD_SOC": 1104}
    assert read_tegrastats("") is None
    assert read_tegrastats("RAM 1/2MB cpu@-256C tj@47.343C\n").temperatures_c == {"tj": 47.343}  # type: ignore[union-attr]


def test_nothing_can_be_read(tmp_path: Path) -> None:
    report = examine(tmp_path / "none", lambda words: None, lambda: ())
    assert report.kind == "pc"
    assert advise(report)[0].what == "no runtime works here, so no model does"
    assert "none is installed" in as_text(report, advise(report))


def test_this_machine(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    works = {trial["runtime"] for trial in found["trials"] if not trial["fault"]}
    assert works >= {"litert", "onnxruntime"}
    assert found["memory_bytes"] > 0


def test_runtimes_that_do_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "AssertionError" not in tiny_models.try_apart("onnxruntime", "cpu")["fault"]
    assert "libraries do not start" in tiny_models.try_apart("onnxruntime", "cuda")["fault"]
    assert "ModuleNotFoundError" in tiny_models.try_apart("tflite-runtime")["fault"]
    monkeypatch.setattr(tiny_models, "OUTPUT", [0.0] * 4)
    assert "where [0.0, 0.0, 0.0, 0.0] is right" in tiny_models._try("litert", "")["fault"]


def test_a_runtime_that_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    died = subprocess.CompletedProcess([], -4, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: died)
    assert tiny_models.try_apart("litert")["fault"].startswith("its process ended with signal 4: it was built for")


def test_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {"tegrastats": f"echo '{NANO_STATS.strip()}'; sleep 5", "vcgencmd": "exit 1", "pactl": "echo $1"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("edgernn.devices.boards.tools.ENDLESS_S", 0.3)
    assert ask(["tegrastats"]) == NANO_STATS
    assert ask(["vcgencmd", "get_throttled"]) is None
    assert ask(["pactl", "info"]) == "info\n"
    assert ask(["nothing-by-that-name"]) is None
