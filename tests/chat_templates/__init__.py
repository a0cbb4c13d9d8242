"""Short chat templates in the shape of public models' own: what they spell is faithful, their sentences are ours."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = {file.stem: file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("*.jinja"))}
