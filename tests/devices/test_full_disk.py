"""What cannot be written is one line and an exit status, never a traceback: in a process of its own, for real."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from tests.devices.needs import needs

FULL = Path("/dev/full")
EDGERNN = [sys.executable, "-W", "error", "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]

pytestmark = needs(not FULL.exists(), "/dev/full")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 8000 + b"\x00\x20\x00\xd0\xff\x10" * 8000)
    return tmp_path / "loud.wav"


def run_full(*words: object) -> tuple[int, list[str]]:
    """Run the command with a full standard output; return status and the lines of standard error."""
    with FULL.open("w") as full:
        result = subprocess.run(
            [*EDGERNN, *map(str, words)], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    return result.returncode, result.stderr.splitlines()


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["--help"], ["--version"]])
def test_text_that_cannot_be_written(words: list[str], energy_artifact: Artifact) -> None:
    path = [energy_artifact.path] if words[0] == "inspect" else []
    assert run_full(*words, *path) == (1, [f"edgernn {words[0]}: error: No space left on device"])


def test_error_on_a_full_output_keeps_its_message(tmp_path: Path) -> None:
    status, lines = run_full("inspect", tmp_path)
    assert (status, len(lines)) == (1, 1)
    assert "is not an artifact" in lines[0]


@pytest.mark.parametrize("sink", ["text:", "json:", f"json:{FULL}"])
def test_events_that_cannot_be_written(sink: str, energy_artifact: Artifact, recording: Path) -> None:
    status, lines = run_full("run", energy_artifact.path, recording, "--fast", "--sink", sink)
    where = f"the file {FULL}" if "full" in sink else "standard output"
    assert (status, lines[-1]) == (
        1,
        f"edgernn run: error: events cannot be written to {where}: No space left on device",
    )
    assert len(lines) == 2  # after the greeting


def test_closed_output_is_fine(energy_artifact: Artifact) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *EDGERNN, "inspect", str(energy_artifact.path)]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
