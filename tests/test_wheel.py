"""The wheel: complete, and enough by itself on a machine that has one runtime and nothing of the desktop."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "edgernn": "edgernn",
    "train": "edgernn/train",
    "quantize": "edgernn/quantize",
    "devices": "edgernn/devices",
}
DEMO = ROOT / "train" / "pretrained"
DESKTOP = ("tensorflow", "keras", "onnx", "onnx_ir")

# one process at a time: two builds in one folder spoil each other
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] = os.environ) -> str:
    """Run a command to its good end and return what it printed."""
    result = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"{command} in {cwd}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def install(requirement: str, folder: Path) -> Path:
    """Install into a new environment in `folder` with nothing else in it; return where its programs are."""
    venv.create(folder / "bare", with_pip=True)
    programs = folder / "bare" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", requirement, cwd=folder)
    return programs


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the model of the demo, on the desktop."""
    folder = tmp_path_factory.mktemp("artifact")
    command = "import sys; from edgernn.cli import main; sys.exit(main())"
    arguments = ("convert", DEMO / "keyword-crnn", "-o", folder / "keyword", "--to", "tflite,onnx")
    run(sys.executable, "-c", command, *arguments, cwd=folder)
    return folder / "keyword"


def test_wheel_holds_every_module_and_nothing_under_a_bare_name(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    modules = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    packaged = {name for name in files if ".dist-info/" not in name}
    page = {f"edgernn/devices/daemon/live.{kind}" for kind in ("html", "css", "js")}
    assert packaged == modules | {"edgernn/py.typed"} | page


def test_wheel_says_what_it_needs_and_its_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [line[:5] for line in needed] == ["numpy"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload(), "the README is missing"
    assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")
    assert b"edgernn = edgernn.cli:main" in archive.read(f"{info}/entry_points.txt")


def test_sdist_can_be_built_from(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "train/__init__.py", "devices/__init__.py"} <= names


@pytest.mark.parametrize("extra", ["litert", "onnx"])
def test_wheel_runs_the_artifact_with_one_runtime_alone(
    wheel: Path, artifact: Path, extra: str, tmp_path: Path
) -> None:
    programs = install(f"{wheel}[{extra}]", tmp_path)
    finder = f"import importlib.util as u; print([name for name in {DESKTOP} if u.find_spec(name)])"
    assert run(programs / "python", "-c", finder, cwd=tmp_path) == "[]\n"

    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    assert "convert" in run(programs / "edgernn", "--help", cwd=tmp_path, env=env)
    assert "dynamic-int8" in run(programs / "edgernn", "inspect", artifact, cwd=tmp_path, env=env)
    heard = run(programs / "edgernn", "run", artifact, DEMO / "samples" / "demo.wav", "--fast", cwd=tmp_path, env=env)
    labels = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["labels"]
    assert any(word in heard for word in labels if word not in ("unknown", "silence")), heard


def test_command_of_the_desktop_names_its_extra(wheel: Path, tmp_path: Path) -> None:
    programs = install(str(wheel), tmp_path)
    for command in (
        ["convert", "model.keras", "-o", "artifact"],
        ["train", "keyword-spotting", "-o", "run", "--data", ".", "--words", "up"],
    ):
        result = subprocess.run(
            [programs / "edgernn", *command], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert result.returncode == 2, result.stderr
        assert f"pip install 'edgernn[{command[0]}]'" in result.stderr
