"""The widget's one script, put together from its source files. They share one scope, in the order of PARTS."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

PARTS = ("host", "texts", "nodes", "panel", "forms", "talk", "start")


@cache
def script() -> tuple[bytes, str]:
    """widget.js with its style sheet inside, and its ETag."""
    style = read("widget.css")
    if "`" in style or "\\" in style or "${" in style:
        raise ValueError("widget.css must not hold what ends or changes a JavaScript template string")
    parts = "\n".join(read(f"script/{name}.js") for name in PARTS)
    body = f'(() => {{\n"use strict";\n\n{parts.replace("STYLE_SHEET", style)}}})();\n'.encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'


@cache
def read(name: str) -> str:
    """A file of the folder `static`."""
    return files("gateway.widget").joinpath("static", name).read_text(encoding="utf-8")
