"""A tool and a typed answer that several scripts ask for; standard library only."""

from __future__ import annotations

from typing import Any

CITIES = ("Paris", "Rome")
WEATHER_SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": [*CITIES]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Today's weather", "parameters": WEATHER_SCHEMA},
}
