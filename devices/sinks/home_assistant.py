"""What Home Assistant is told of a device that spots words, by MQTT discovery of a whole device (since 2024.11).

An event entity whose types are the words, a trigger for each word that automations can be made with, and sensors for
diagnosis: whether the daemon runs, and what it heard last, where, when, and how surely. (Tried with 2025.4.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edgernn import __version__

__all__ = ["discovery_payload", "discovery_topic", "object_id"]

ONLINE, OFFLINE = "online", "offline"


def object_id(text: str) -> str:
    """Return a text as Home Assistant takes it in topics and ids.

    >>> object_id("edgernn/Haus Süd")
    'edgernn_Haus_S_d'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def discovery_topic(prefix: str, base: str) -> str:
    """Return where the payload belongs, retained."""
    return f"{prefix}/device/{object_id(base)}/config"


def discovery_payload(base: str, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the device that publishes events on `base/event` and its availability on `base/status`."""
    node = object_id(base)
    event_topic, status_topic = f"{base}/event", f"{base}/status"
    components: dict[str, dict[str, Any]] = {
        "word": {
            "platform": "event",
            "name": "Word",
            "icon": "mdi:account-voice",
            "event_types": list(words),
            "state_topic": event_topic,
            "value_template": "{{ dict(value_json, event_type=value_json.word | default(value_json.name)) | to_json }}",
        },
        "running": _diagnostic("binary_sensor", "Running", status_topic)
        | {"device_class": "connectivity", "payload_on": ONLINE, "payload_off": OFFLINE},
        "last_word": _diagnostic("sensor", "Last word", event_topic, "word | default(value_json.name)"),
        "last_score": _diagnostic("sensor", "Last score", event_topic, "score | round(2)"),
        "last_pipeline": _diagnostic("sensor", "Last heard by", event_topic, "pipeline"),
        "last_time": _diagnostic("sensor", "Last heard", event_topic, "time") | {"device_class": "timestamp"},
    }
    for key, component in components.items():
        component["unique_id"] = f"{node}_{key}"
        if key != "running":  # that one must show that we are not there
            component["availability"] = [{"topic": status_topic}]
    for number, word in enumerate(words):
        components[f"trigger_{number}_{object_id(word)}"] = _trigger(word, event_topic)
    return {
        "device": {"identifiers": [node], "name": name, "manufacturer": "EdgeRNN", "sw_version": __version__},
        "origin": {"name": "EdgeRNN", "sw_version": __version__},
        "components": components,
        "qos": 1,
    }


def _trigger(word: str, topic: str) -> dict[str, Any]:
    return {
        "platform": "device_automation",
        "automation_type": "trigger",
        "type": "spotted",
        "subtype": word,
        "topic": topic,
        "payload": word,
        "value_template": "{{ value_json.word | default(value_json.name) }}",
    }


def _diagnostic(platform: str, name: str, topic: str, value: str = "") -> dict[str, Any]:
    component = {"platform": platform, "name": name, "state_topic": topic, "entity_category": "diagnostic"}
    return component | ({"value_template": f"{{{{ value_json.{value} }}}}"} if value else {})
