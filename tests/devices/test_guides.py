"""The guides to boards: what they write into files is read, and the commands that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from edgernn.cli import COMMANDS, main
from edgernn.devices.signing import make_key, read_key, sign

GUIDES = sorted((Path(__file__).parents[2] / "devices").glob("*.md"))


def blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", guide.read_text(), re.DOTALL)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_commands(guide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(guide, "sh") for line in block.splitlines()]
    commands = [found[1] for line in lines if (found := re.match(r"(?:sudo )?edgernn (.*)", line))]
    assert commands
    for command in commands:
        name, *words = command.partition("#")[0].split()
        assert name in COMMANDS
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_configuration(tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    """As the guide has it, but for the microphone."""
    (text,) = blocks(next(path for path in GUIDES if path.stem == "raspberry-pi"), "toml")
    file = tmp_path / "edge.toml"
    file.write_text(text.replace('"mic:"', '"stdin:"'))
    make_key(tmp_path / "release")
    sign(energy_artifact, read_key(tmp_path / "release"))
    energy_artifact.path.rename(tmp_path / "keyword")
    assert main(["serve", str(file), "--check"]) == 0
    assert "hall" in capsys.readouterr().out
