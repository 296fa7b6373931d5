"""One rule for all commands: what is not there is misuse, 2; what is there and broken is a failure, 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgernn.cli import COMMANDS, main
from tests.devices.conftest import write_energy_artifact

# THERE is an artifact, BROKEN stands for what is tried, OUT for where something would be written.
WORDS = [
    "inspect BROKEN",
    "verify BROKEN",
    "run BROKEN",
    "run THERE BROKEN",
    "profile BROKEN",
    "compare BROKEN BROKEN",
    "sign BROKEN --key THERE/manifest.json",
    "sign THERE --key BROKEN",
    "serve BROKEN --check",
    "serve BROKEN",
    "install-service BROKEN --print",
    "evaluate BROKEN --data .",
    "evaluate THERE --data BROKEN",
    "convert BROKEN -o OUT",
    "convert THERE/step.onnx -o OUT --calibrate BROKEN",
    "train keyword-spotting --words up --data BROKEN -o OUT",
    "train keyword-spotting --words up --data . -o OUT --recipe BROKEN",
    "train keyword-spotting --data . -o OUT --finetune BROKEN",
]
# What holds options is misused where it does not say what they may be; calibration data has a suffix of its own.
OPTIONS = (
    "--recipe BROKEN", "--finetune BROKEN", "--calibrate BROKEN", "--key BROKEN",
    "serve BROKEN", "serve BROKEN --check", "service BROKEN --print",
)  # fmt: skip
TAKE_NO_PATH = {"doctor"}


def test_every_command_is_tried() -> None:
    assert {words.split()[0] for words in WORDS} == set(COMMANDS) - TAKE_NO_PATH


def test_closed_standard_streams_are_not_the_next_files_that_are_opened(tmp_path: Path) -> None:
    program = """if True:
        import sys
        from edgernn.cli import main
        main(["nothing"])
        print("to nowhere", file=sys.stderr, flush=True)
        with open(sys.argv[1], "w") as file:
            sys.exit(file.fileno())
    """
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, check=False, timeout=60).returncode > 2


@pytest.mark.parametrize("words", WORDS)
def test_a_path_that_leads_nowhere_is_misuse(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = run(words, tmp_path / "nowhere", tmp_path, capsys)
    assert status == 2
    assert "nowhere" in error
    assert "does not exist" in error


@pytest.mark.parametrize("words", [words for words in WORDS if not words.endswith(OPTIONS)])
def test_a_file_that_is_broken_is_a_failure(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.keras").write_bytes(b"garbage")
    status, error = run(words, tmp_path / "broken.keras", tmp_path, capsys)
    assert status == 1
    assert "broken" in error


def run(words: str, tried: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command line; return its exit status and its one message."""
    write_energy_artifact(folder / "there")
    paths = {"THERE": folder / "there", "BROKEN": tried, "OUT": folder / "out"}
    for name, path in paths.items():
        words = words.replace(name, str(path))
    status, printed = main(words.split()), capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "error: " in line]
    assert len(lines) == 1, printed.err
    assert not (folder / "out").exists()
    return status, lines[0]
