"""The live page in a real browser, which reaches nothing but the daemon."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.select import Select

from edgernn.artifact import Artifact
from edgernn.devices.daemon.config import HttpConfig
from edgernn.devices.daemon.counters import Counters, DaemonCounters
from edgernn.devices.daemon.fields import Address
from edgernn.devices.daemon.web import WebServer
from tests.devices.conftest import write_energy_artifact
from tests.devices.needs import needs
from tests.devices.serving import Serving

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    needs(not (CHROMIUM and DRIVER), "chromium, chromium-driver"),
]
NO_NETWORK = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
COLOURS = """
const picture = document.querySelector(arguments[0]);
const pixels = new Uint32Array(picture.getContext("2d").getImageData(0, 0, picture.width, picture.height).data.buffer);
return new Set(pixels).size;
"""
CONTRASTS = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = parse(colour).map((part) => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return parse(colour)[3] === 0 ? ground(element.parentElement) : colour;
};
const says = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
const all = [...document.body.querySelectorAll("*")];
return all.filter((element) => says(element) && element.checkVisibility()).map((element) => {
  const pair = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
  return [element.tagName + ": " + element.textContent.trim(), (pair[0] + 0.05) / (pair[1] + 0.05)];
});
"""


class Browser:
    """Chromium without a window."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1180,1240", *NO_NETWORK):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def open(self, url: str) -> None:
        self.complaints()
        self._driver.get("about:blank")
        self._driver.get(url)

    def complaints(self) -> list[str]:
        """What the console says since the last call."""
        return [line["message"] for line in self._driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def run(self, script: str, *values: object) -> Any:
        return self._driver.execute_script(script, *values)

    def cdp(self, command: str, **values: object) -> Any:
        return self._driver.execute_cdp_cmd(command, values)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def count(self, selector: str) -> int:
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def choose(self, pipeline: str) -> None:
        Select(self._driver.find_element("id", "pipelines")).select_by_visible_text(pipeline)

    @contextlib.contextmanager
    def another_tab(self) -> Iterator[None]:
        first = self._driver.current_window_handle
        self._driver.switch_to.new_window("tab")
        yield
        self._driver.close()
        self._driver.switch_to.window(first)

    def emulate(self, dark: bool, width: int = 1180, height: int = 1240) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)

    def close(self) -> None:
        self._driver.quit()


def wait(holds: Callable[[], object], what: str, within_s: float = 15) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, f"not within {within_s} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("page")
    serving = Serving(folder, write_energy_artifact(folder / "energy").path)
    yield serving
    serving.close()


@pytest.fixture
def page(daemon: Serving, browser: Browser) -> Browser:
    """The page, with sound on it."""
    browser.emulate(dark=False)
    browser.open(daemon.url)
    wait(lambda: browser.text("#state") == "running", "running")
    wait(lambda: browser.count("#told li"), "an event")
    wait(lambda: browser.run(COLOURS, "#spectrogram") > 30, "a spectrogram")
    return browser


def test_page_says_what_comes_of_a_sensor(browser: Browser) -> None:
    counters = DaemonCounters()
    counters.pipelines = {"oven": Counters("oven")}
    counters.pipelines["oven"].is_sound, counters.pipelines["oven"].rate_hz = False, 50
    server = WebServer(HttpConfig(Address("127.0.0.1", 0)), counters)
    server.start()
    try:
        browser.open(server.url)
        wait(lambda: browser.text("title").startswith("oven"), "the pipeline's name")
        assert browser.text("#heard") == "Frames and scores"
        assert browser.run("return document.querySelector('#level-row').hidden")
        assert browser.complaints() == []
    finally:
        browser.open("about:blank")
        server.stop()


def test_page_shows_what_is_heard(page: Browser, daemon: Serving) -> None:
    assert page.run(COLOURS, "#words canvas") >= 3, "ground, area and threshold"
    assert page.text("#words .name") == "sound"
    wait(lambda: page.text("#level-value").endswith(" dB"), "a level")
    wait(lambda: page.count("#latency tbody tr"), "latencies")
    wait(lambda: "down" in page.text("#sinks tbody"), "a sink")
    assert "nobody" in page.text("#sinks .fault")
    wait(lambda: "sink down, for" in page.text("#down li"), "what does not work")
    assert "nobody" in page.text("#down li")
    before = page.run("return document.getElementById('spectrogram').toDataURL()")
    wait(lambda: page.run("return document.getElementById('spectrogram').toDataURL()") != before, "it moves")
    assert page.complaints() == []


def test_all_comes_from_the_daemon(page: Browser, daemon: Serving) -> None:
    loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {url.removeprefix(daemon.url) for url in loaded} >= {"live.css", "live.js"}
    assert [url for url in loaded if not url.startswith((daemon.url, "data:,"))] == []
    blocked = "return fetch('http://example.org/').then(() => 'reached', () => 'blocked')"
    assert page.run(blocked) == "blocked"  # by its own policy, before the browser looks for the name
    assert "Content Security Policy" in "".join(page.complaints())


def test_another_pipeline(page: Browser) -> None:
    page.choose("kitchen")
    wait(lambda: page.text("#state") == "ended", "the other pipeline")
    assert page.run("return [location.hash, document.title]") == ["#kitchen", "kitchen · EdgeRNN"]
    assert page.count("#told li") > 3
    page.choose("hall")
    wait(lambda: page.text("#state") == "running", "the first one again")
    assert page.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_page_can_be_read(dark: bool, page: Browser) -> None:
    """Contrast of 4.5 and more, as WCAG asks for text; no scrolling sideways on a phone."""
    page.emulate(dark, 360, 740)
    wait(lambda: page.count("#latency tbody tr") and page.count("#sinks .fault"), "all parts")
    contrasts: list[tuple[str, float]] = page.run(CONTRASTS)
    assert len(contrasts) > 40
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
    assert page.run("return document.documentElement.scrollWidth - innerWidth") <= 0
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(15, 19, 24)") == dark


def test_page_is_told_to_those_who_do_not_see_it(page: Browser) -> None:
    nodes = page.cdp("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("image", "meter", "combobox", "log", "region", "heading"):
        assert named[role], role
        assert all(named[role]), f"a {role} has no name"
    assert "Score of sound, last 12 seconds; threshold 0.6" in named["image"]
    assert page.run("return document.documentElement.lang") == "en"


def test_nothing_is_sent_while_nobody_looks(page: Browser, daemon: Serving) -> None:
    daemon.wait_until("/metrics", "edgernn_http_viewers 1.0")
    with page.another_tab():
        daemon.wait_until("/metrics", "edgernn_http_viewers 0.0")
    daemon.wait_until("/metrics", "edgernn_http_viewers 1.0")
    wait(lambda: page.text("#state") == "running", "running")


def test_page_is_back_when_the_daemon_is(tmp_path: Path, energy_artifact: Artifact, browser: Browser) -> None:
    first = Serving(tmp_path, energy_artifact.path)
    browser.open(first.url)
    wait(lambda: browser.count("#told li"), "an event")
    told = browser.run("return document.querySelector('#told li').dataset.id.split('-')[1]")
    first.close()
    wait(lambda: "no connection" in browser.text("#state"), "a word that it is gone")
    second = Serving(tmp_path, energy_artifact.path, "{}:{}".format(*first.address))
    try:
        wait(lambda: browser.text("#state") == "running", "running again")
        wait(lambda: browser.count("#told li"), "an event")
        ids = browser.run("return [...document.querySelectorAll('#told li')].map((line) => line.dataset.id)")
        assert all(told not in id_ for id_ in ids), "what the first daemon told is gone"
    finally:
        second.close()
