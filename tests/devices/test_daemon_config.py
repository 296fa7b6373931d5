"""What a configuration may say, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.devices.daemon.config import Config, SourceConfig
from edgernn.devices.daemon.layers import read_file_layer, value_of
from edgernn.devices.daemon.load import load
from edgernn.devices.secret import Secret
from edgernn.errors import UsageError

GOOD = """\
log = "json"
[pipeline.hall]
artifact = "keyword"
source = "mic:USB"
sinks = ["broker", "json:events.jsonl"]
threshold = { left = 0.8 }
late_s = 2
[sink.broker]
uri = "mqtt://broker/hall"
password = { file = "/run/mqtt" }
"""


def read(tmp_path: Path, text: str, *settings: str, **environment: str) -> Config:
    file = tmp_path / "edge.toml"
    file.write_text(text)
    return load(file, environment, settings)


def complaint(tmp_path: Path, text: str, *settings: str, **environment: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text, *settings, **environment)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_everything_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    hall = config.pipelines["hall"]
    assert hall.artifact == tmp_path / "keyword"
    assert (hall.source, hall.late_s, hall.threshold) == (SourceConfig("mic:USB"), 2.0, {"left": 0.8})
    assert hall.sinks == ("broker", "json:events.jsonl")
    assert config.sinks["broker"].options == {"password": Secret("file", "/run/mqtt")}
    assert config.sinks["json:events.jsonl"].uri == "json:events.jsonl"
    assert (config.log, config.http) == ("json", None)


def test_sinks_that_differ_by_a_password_are_not_taken_for_one(tmp_path: Path) -> None:
    second = GOOD[GOOD.index("[pipeline") : GOOD.index("[sink")].replace("hall", "yard")
    text = (GOOD + second).replace('"json:', '"mqtt://anna:a@broker/x", "mqtt://anna:b@broker/x", "json:', 1)
    said = complaint(tmp_path, text)
    assert said == (
        "edge.toml:5: two sinks mqtt://broker/x that differ by a password only: give each a table [sink.NAME]"
    )


MISTAKES = {
    'lgo = "json"': "edge.toml:1: lgo is not known; did you mean log?",
    "log = 7": "edge.toml:1: log must be one of auto, text, json, found 7",
    "x = [1,\n2\n": "edge.toml:3: not TOML: Unclosed array",
    "\nx = = 1": "edge.toml:2: not TOML: Invalid value",
    "": "there is no pipeline: expected a table [pipeline.NAME]",
    'pipeline = "hall"': "edge.toml:1: pipeline must hold tables: [pipeline.NAME]",
    "[pipeline.hall]\nsource = 'mic:'": "edge.toml:1: pipeline.hall lacks the key artifact",
    GOOD + "usr = [1]\n[[http]]": "edge.toml:12: http must be a table, found a list",
    GOOD + "[http]\nlisten = ':70000'": "edge.toml:12: http.listen must be a host and a port",
    GOOD + "[queue]\nmost_bytes = '10 parsec'": "edge.toml:12: queue.most_bytes must be a size such as 10MB or 64KiB",
    GOOD.replace("thres", "tres"): "edge.toml:6: pipeline.hall.treshold is not known; did you mean threshold?",
    GOOD.replace("0.8", "1.8"): "edge.toml:6: pipeline.hall.threshold must be a number above 0 and at most 1",
    GOOD.replace(
        '"broker"', '\n"text:",\n"brokr"'
    ): "edge.toml:5: there is no sink 'brokr'; expected a URI, or one of: br",
    GOOD.replace('"mic:USB"', "{ ur = 1 }"): "edge.toml:4: pipeline.hall.source must be a URI, or a table like",
    GOOD.replace("file =", "fiel ="): 'edge.toml:8: sink.broker has password, which must be a value, { file = "…" }',
    GOOD.replace("sink.broker", 'sink."the broker"'): "edge.toml:8: sink.the broker: a name has letters, digits",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_their_place(text: str, tmp_path: Path) -> None:
    assert MISTAKES[text] in complaint(tmp_path, text)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("late_s = 2", "late_s = -2\nstall_s = 'x'") + "[htp]\n"
    assert [line.split(":")[1] for line in complaint(tmp_path, text).splitlines()] == ["7", "8", "12"]


def test_environment_goes_over_the_file_and_settings_over_both(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        GOOD.replace("hall", "front-hall"),
        "pipeline.front-hall.late_s=4",
        "pipeline.front-hall.source.password={env='PW'}",
        EDGERNN_PIPELINE_FRONT_HALL_LATE_S="3",
        EDGERNN_PIPELINE_FRONT_HALL_SOURCE="mic:2",
        EDGERNN_PIPELINE_FRONT_HALL_THRESHOLD_LEFT="0.5",
        EDGERNN_SINK_BROKER_URI="mqtt://other",
        EDGERNN_SINK_NEW_URI="text:",
        EDGERNN_HTTP_LISTEN="[::1]:0",
        EDGERNN_LOG="text",
        EDGERNN_BOARD_CACHE="/tmp",
    )
    hall = config.pipelines["front-hall"]
    assert (hall.late_s, hall.threshold) == (4.0, {"left": 0.5})
    assert hall.source == SourceConfig("mic:2", {"password": Secret("env", "PW")})
    assert config.sinks["broker"].uri == "mqtt://other"
    assert config.sinks["broker"].options["password"] == Secret("file", "/run/mqtt")
    assert config.sinks["new"].uri == "text:"
    assert config.http is not None
    assert (config.http.listen, config.log) == (("::1", 0), "text")


def test_mistakes_beside_the_file(tmp_path: Path) -> None:
    assert "EDGERNN_HTTP_LISTEN: http.listen must be a host" in complaint(tmp_path, GOOD, EDGERNN_HTTP_LISTEN="x:1x")
    assert "EDGERNN_PIPELINE_X: no key of [pipeline]" in complaint(tmp_path, GOOD, EDGERNN_PIPELINE_X="1")
    assert "--set http.listn: http.listn is not known; did you mean listen?" in complaint(
        tmp_path, GOOD, "http.listn=1"
    )
    assert "--set takes KEY=VALUE" in complaint(tmp_path, GOOD, "http.listen")
    assert "goes through 'log', which is no table" in complaint(tmp_path, GOOD, "log.level=1")


def test_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.toml does not exist; expected a"):
        load(tmp_path / "nowhere.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"log = '\xe9'")
    with pytest.raises(UsageError, match="is not UTF-8 text: byte 7"):
        load(tmp_path / "latin.toml", {})


def test_secrets_are_read_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mqtt").write_text("hunter2\n")
    config = read(tmp_path, GOOD.replace("/run/mqtt", str(tmp_path / "mqtt")))
    secret = config.sinks["broker"].options["password"]
    assert secret.reveal() == "hunter2"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secret("credential", "mqtt").reveal() == "hunter2"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(UsageError, match=r"the credential mqtt is neither where .* put it there, or use \{ file"):
        Secret("credential", "mqtt").reveal()
    (tmp_path / "config/credstore").mkdir(parents=True)
    (tmp_path / "mqtt").rename(tmp_path / "config/credstore/mqtt")
    assert Secret("credential", "mqtt").reveal() == "hunter2", "what --check and install-service read"
    assert "hunter2" not in f"{config} {Secret('text', 'hunter2')}"
    with pytest.raises(UsageError, match="nowhere cannot be read: No such file"):
        Secret("file", str(tmp_path / "nowhere")).reveal()
    with pytest.raises(UsageError, match="environment variable NOWHERE for a secret is not set"):
        Secret("env", "NOWHERE").reveal()
    assert "anna" not in read(tmp_path, GOOD, "pipeline.hall.sinks=mqtt://anna:x@b/").pipelines["hall"].sinks[0]


PIECES = st.sampled_from(
    [
        "# a comment\n",
        "\n",
        "a{} = 1\n",
        'a{} = """\nb = 1\n[x]\n"""\n',
        "a{} = [\n 1, # ]\n 2\n]\n",
        "a{} = '''\n\n'''\n",
    ]
)


@given(before=st.lists(PIECES, max_size=12), after=st.lists(PIECES, max_size=12))
def test_line_of_any_key(before: list[str], after: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    head = "".join(piece.format(number) for number, piece in enumerate(before))
    body = "".join(piece.format(number) for number, piece in enumerate(after))
    file = tmp_path_factory.getbasetemp() / "lines.toml"
    file.write_text(f"{head}[t.u]\n{body}key = 1\n")
    layers = read_file_layer(file)
    assert layers.place(("t", "u")) == f"{file}:{head.count(chr(10)) + 1}"
    assert layers.place(("t", "u", "key")) == f"{file}:{(head + body).count(chr(10)) + 2}"


@given(st.text(max_size=20))
def test_any_text_is_a_value(text: str) -> None:
    value_of(text)
