"""Signed artifacts: keys, who is trusted, and that no byte changes unnoticed."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.artifact import MANIFEST, SIGNATURE, Artifact, check_target
from edgernn.cli import main
from edgernn.devices.signing import TrustedKey, check_signature, make_key, read_key, read_trusted, sign
from edgernn.errors import ArtifactError, SignatureError, UsageError
from tests.devices.conftest import write_energy_artifact
from tests.devices.quick_folder import quick_folder

Capture = pytest.CaptureFixture[str]


def signed(folder: Path) -> tuple[Artifact, TrustedKey]:
    artifact = write_energy_artifact(folder / "energy")
    make_key(folder / "release")
    return artifact, sign(artifact, read_key(folder / "release"))


@pytest.fixture(scope="module")
def original() -> Iterator[tuple[Artifact, TrustedKey]]:
    """Return a signed artifact that no test changes."""
    with quick_folder() as folder:
        yield signed(folder)


def open_signed(folder: Path, trusted: list[TrustedKey]) -> Artifact:
    check_signature(folder, trusted)
    return Artifact.open(folder)


def test_commands(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = write_energy_artifact(tmp_path / "energy")
    assert main(["sign", "--new-key", "release"]) == 0
    assert main(["sign", "--new-key", "other"]) == 0
    assert stat.S_IMODE(Path("release").stat().st_mode) == 0o600
    assert main(["verify", "energy", "--trusted", "release.pub"]) == 1
    assert "energy is not signed" in capsys.readouterr().err
    assert main(["sign", "energy", "--key", "release"]) == 0
    who = capsys.readouterr().out.strip().rpartition(" ")[2]
    assert who == read_trusted("release.pub").fingerprint
    assert open_signed(artifact.path, [read_trusted("other.pub"), read_trusted("release.pub")]).name == "energy"
    assert main(["verify", "energy", "--trusted", "other.pub"]) == 1
    assert "is signed by nobody who is trusted here: expected a signature by SHA256:" in capsys.readouterr().err
    check_target("energy")  # a signed artifact is still one that a conversion replaces


def test_verify_says_who_signed(tmp_path: Path, capsys: Capture) -> None:
    from tests.devices.test_verify import write

    artifact = write(tmp_path / "lstm")
    make_key(tmp_path / "release")
    who = sign(artifact, read_key(tmp_path / "release"))
    assert main(["verify", str(artifact.path), "--trusted", str(tmp_path / "release.pub")]) == 0
    assert f"signed by {who.fingerprint}" in capsys.readouterr().err


@given(data=st.data())
def test_any_byte_that_changes_is_noticed(original: tuple[Artifact, TrustedKey], data: st.DataObject) -> None:
    artifact, key = original
    names = sorted(path.name for path in artifact.path.iterdir())
    assert {MANIFEST, SIGNATURE, "step.onnx", "step.tflite"} == set(names)
    name = data.draw(st.sampled_from(names))
    content = (artifact.path / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))
    changed = content[:place] + bytes([content[place] ^ other]) + content[place + 1 :]
    with quick_folder() as folder:
        copy = folder / "copy"
        shutil.copytree(artifact.path, copy)
        (copy / name).write_bytes(changed)
        with pytest.raises(ArtifactError):
            open_signed(copy, [key])


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, "step.onnx"])
@pytest.mark.parametrize("change", [b"", b"\n", b" "])
def test_what_is_cut_or_added_is_noticed(
    original: tuple[Artifact, TrustedKey], name: str, change: bytes, tmp_path: Path
) -> None:
    artifact, key = original
    shutil.copytree(artifact.path, tmp_path / "copy")
    content = (artifact.path / name).read_bytes()
    (tmp_path / "copy" / name).write_bytes(content + change if change else content[:-1])
    with pytest.raises(ArtifactError):
        open_signed(tmp_path / "copy", [key])


def test_a_manifest_that_was_changed_with_its_digests_is_noticed(tmp_path: Path) -> None:
    artifact, key = signed(tmp_path)
    line = (artifact.path / SIGNATURE).read_text()
    write_energy_artifact(artifact.path)
    manifest = artifact.path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"name": "energy"', '"name": "enerky"'))
    (artifact.path / SIGNATURE).write_text(line)
    with pytest.raises(SignatureError, match="was changed after it was signed"):
        check_signature(artifact.path, [key])


def test_keys_of_openssh(tmp_path: Path) -> None:
    program = shutil.which("ssh-keygen")
    assert program, "the package openssh-client, which .ci/run installs"
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "theirs")], check=True)
    trusted = read_trusted(str(tmp_path / "theirs.pub"))
    assert trusted == read_trusted((tmp_path / "theirs.pub").read_text().strip())
    artifact = write_energy_artifact(tmp_path / "energy")
    assert sign(artifact, read_key(tmp_path / "theirs")) == trusted
    told = subprocess.run([program, "-lf", str(tmp_path / "theirs.pub")], capture_output=True, text=True, check=True)
    assert trusted.fingerprint in told.stdout
    make_key(tmp_path / "ours")
    told = subprocess.run([program, "-lf", str(tmp_path / "ours.pub")], capture_output=True, text=True, check=True)
    assert read_trusted(str(tmp_path / "ours.pub")).fingerprint in told.stdout
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True)
    with pytest.raises(UsageError, match="has a password"):
        read_key(tmp_path / "locked")


def test_mistakes(tmp_path: Path, capsys: Capture) -> None:
    key = tmp_path / "release"
    make_key(key)
    with pytest.raises(UsageError, match="none is replaced"):
        make_key(key)
    with pytest.raises(UsageError, match="is a private key"):
        read_trusted(str(key))
    with pytest.raises(UsageError, match="is not a private key"):
        read_key(tmp_path / "release.pub")
    with pytest.raises(UsageError, match="does not exist; expected a"):
        read_trusted("none.pub", tmp_path)
    with pytest.raises(UsageError, match="is not a public key"):
        read_trusted("ssh-ed25519 AAAA")
    assert main(["sign", str(tmp_path)]) == 2
    assert "name the artifact and its signer's key" in capsys.readouterr().err
    assert main(["sign", str(tmp_path), "--key", str(key)]) == 1
    assert "is not an artifact" in capsys.readouterr().err
