"""The discovery payload has what Home Assistant asks of a device, its entities and its triggers."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgernn.devices.sinks.home_assistant import discovery_payload, discovery_topic
from edgernn.events import Alarm, Event, Keyword, Stamp

# What homeassistant/components/mqtt has: keys that must be there, and those that may (others are dropped in silence).
ENTITY = {"platform", "unique_id", "state_topic"}
OPTIONAL = {"name", "icon", "availability", "value_template", "entity_category", "device_class"}
PLATFORMS: dict[str, tuple[set[str], set[str]]] = {
    "event": (ENTITY | {"event_types"}, OPTIONAL),
    "sensor": (ENTITY, OPTIONAL),
    "binary_sensor": (ENTITY, OPTIONAL | {"payload_on", "payload_off"}),
    "device_automation": (
        {"platform", "automation_type", "type", "subtype", "topic"}, {"payload", "value_template"},
    ),
}  # fmt: skip
DEVICE = {"identifiers", "name", "manufacturer", "sw_version"}
WORDS = ["left", "naïve", "two words", "left!"]


def test_every_component_can_be_told_from_every_other() -> None:
    payload = json.loads(json.dumps(discovery_payload("edge/Süd", "South", WORDS)))
    components = payload["components"]
    assert set(payload) >= {"device", "origin", "components"}
    assert payload["device"]["identifiers"] == ["edge_S_d"]
    assert payload["origin"]["name"] == "EdgeRNN"
    entities = [one for one in components.values() if one["platform"] != "device_automation"]
    assert len({one["unique_id"] for one in entities}) == len(entities) == 6
    assert len(components) == len(entities) + len(WORDS)
    assert all(one["state_topic"].startswith("edge/Süd/") for one in entities)


def test_words_are_event_types_and_triggers() -> None:
    components = discovery_payload("edge/hall", "Hall", WORDS)["components"]
    (event,) = (one for one in components.values() if one["platform"] == "event")
    triggers = [one for one in components.values() if one["platform"] == "device_automation"]
    assert event["event_types"] == [one["payload"] for one in triggers] == [one["subtype"] for one in triggers] == WORDS
    assert {(one["automation_type"], one["type"], one["topic"]) for one in triggers} == {
        ("trigger", "spotted", "edge/hall/event")
    }


def test_what_is_not_there_shows_as_unavailable_and_the_daemon_as_not_running() -> None:
    components = discovery_payload("edge/hall", "Hall", [])["components"]
    running = components.pop("running")
    assert "availability" not in running
    assert (running["state_topic"], running["payload_off"]) == ("edge/hall/status", "offline")
    assert all(one["availability"] == [{"topic": "edge/hall/status"}] for one in components.values())


def test_its_topic_is_one_that_it_listens_to() -> None:
    assert discovery_topic("homeassistant", "edge/hall #1") == "homeassistant/device/edge_hall_1/config"
    trimmed = discovery_topic("homeassistant", "edge/hall #1").removeprefix("homeassistant/")
    assert re.fullmatch(r"device/[a-zA-Z0-9_-]+/config", trimmed)


def test_its_keys_are_those_that_home_assistant_knows() -> None:
    payload = discovery_payload("edge/hall", "Hall", WORDS)
    assert set(payload) == {"device", "origin", "components", "qos"}
    assert set(payload["device"]) == DEVICE
    assert set(payload["origin"]) == {"name", "sw_version"}
    for component in payload["components"].values():
        required, optional = PLATFORMS[component["platform"]]
        assert required <= set(component) <= required | optional
        assert component.get("entity_category", "diagnostic") == "diagnostic"
    classes = {one["device_class"] for one in payload["components"].values() if "device_class" in one}
    assert classes == {"connectivity", "timestamp"}


@pytest.mark.parametrize("event", [Keyword("naïve", 0.9137, 0.5, 1.0), Alarm("left!", 1.31, 60.0, 60.5)])
def test_its_templates_give_what_each_entity_takes(event: Event) -> None:
    """As Home Assistant renders them: Jinja in a sandbox, with a filter `to_json` of its own."""
    environment = ImmutableSandboxedEnvironment()
    environment.filters["to_json"] = lambda value: json.dumps(value, ensure_ascii=False)
    message = Stamp()("hall", event)

    def render(component: dict[str, Any]) -> str:
        template = environment.from_string(component["value_template"])
        return template.render(value=message.to_json(), value_json=json.loads(message.to_json()))

    components = discovery_payload("edge/hall", "Hall", WORDS)["components"]
    told = json.loads(render(components["word"]))
    assert told["event_type"] == event.label
    assert told["event_type"] in components["word"]["event_types"]
    assert told["id"] == message.id
    assert render(components["last_word"]) == event.label
    assert render(components["last_score"]) == f"{event.score:.2f}"
    assert render(components["last_pipeline"]) == "hall"
    when = datetime.datetime.fromisoformat(render(components["last_time"]).replace("Z", "+00:00"))
    assert when.utcoffset() == datetime.timedelta(0)  # without a zone, it would be refused
    triggers = [one for one in components.values() if one["platform"] == "device_automation"]
    fired = [one["subtype"] for one in triggers if render(one) == one["payload"]]
    assert fired == [event.label]
