"""The discovery payload has what Home Assistant asks of a device, its entities and its triggers."""

from __future__ import annotations

import json

from edgernn.devices.sinks.home_assistant import discovery_payload, discovery_topic

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
