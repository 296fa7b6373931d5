"""The guides and references: what they write into files is read, and commands and links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgernn import __version__
from edgernn.artifact import Artifact
from edgernn.cli import COMMANDS, main
from edgernn.devices.signing import make_key, read_key, sign
from tests.boards.aarch64 import EXTRAS, PACKAGES

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "devices" / "raspberry-pi.md", ROOT / "devices" / "jetson.md"]
PAGES = [*GUIDES, ROOT / "README.md", ROOT / "devices" / "README.md", ROOT / "quantize" / "README.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [found[1] for line in lines if (found := re.match(r"(?:sudo )?edgernn (.*)", line))]
    for command in commands:
        name, *words = command.partition("#")[0].split()
        assert name in COMMANDS
        with pytest.raises(SystemExit):
            main([name, *(words[:1] if name == "train" else ()), "--help"])
        shown = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in shown] == []


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_what_is_installed_is_what_the_emulated_board_has(guide: Path) -> None:
    text = "\n".join(blocks(guide, "sh"))
    (wheel,) = re.findall(r"pip install '\./edgernn-(\S+)-py3-none-any\.whl\[(\S+)\]'", text)
    assert wheel[0] == __version__
    assert set(wheel[1].split(",")) <= set(EXTRAS["edgernn"].split(","))
    (packages,) = re.findall(r"apt-get install --yes (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert set(packages.split()) <= set(PACKAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_shell_can_read_them(page: Path) -> None:
    for block in blocks(page, "sh"):
        read = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert (read.returncode, read.stderr) == (0, ""), block


def test_configuration(
    tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guide has it, but for the microphone; then with Home Assistant's broker."""
    guide = next(path for path in GUIDES if path.stem == "raspberry-pi")
    text, home = blocks(guide, "toml")
    (sinks,) = re.findall(r"^`(sinks = .*?)` in the pipeline", guide.read_text(), re.MULTILINE)
    file = tmp_path / "edge.toml"
    make_key(tmp_path / "release")
    sign(energy_artifact, read_key(tmp_path / "release"))
    energy_artifact.path.rename(tmp_path / "keyword")
    file.write_text(text.replace('"mic:USB"', '"stdin:"'))
    assert main(["serve", str(file), "--check"]) == 0
    assert "hall" in capsys.readouterr().out
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "credstore").mkdir()
    (tmp_path / "credstore" / "mqtt").write_text("secret\n")
    file.write_text(file.read_text().replace('sinks = ["text:"]', sinks) + home)
    assert main(["serve", str(file), "--check"]) == 0
    assert "text:, home" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for place, fragment in re.findall(r"\]\(([^)#\s:]*)(?:#([^)]*))?\)", page.read_text()):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if fragment else []
        assert not fragment or fragment in [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
