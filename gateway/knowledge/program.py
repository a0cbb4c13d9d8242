"""`python -m services.knowledge` as a function: documents are read and indexes built outside of this process."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import orjson
from pydantic import TypeAdapter

from services.contracts.knowledge import Passage
from services.process.children import mortal

PROGRAM_S_MAX = 180.0
_PASSAGES = TypeAdapter(list[Passage])


class ProgramFailed(Exception):
    """It did not do its job. The message says why, for whoever added the document."""


async def read_document(name: str, data: bytes, *, title: str, url: str | None, source: str) -> list[Passage]:
    """A file's passages. Raises ProgramFailed."""
    asked = {
        "name": name,
        "data": base64.b64encode(data).decode(),
        "title": title,
        "url": url or "",
        "source": source,
    }
    answer = orjson.loads(await _run("parse", orjson.dumps(asked)))
    if "error" in answer:
        raise ProgramFailed(answer["error"])
    return _PASSAGES.validate_python(answer["passages"])


async def build_index(path: Path, passages: Sequence[Passage], files: Sequence[Path]) -> None:
    """Write an index of passages and of files' passages. Raises ProgramFailed."""
    asked = {
        "path": str(path),
        "passages": [asdict(passage) for passage in passages],
        "files": [str(file) for file in files],
    }
    await _run("build", orjson.dumps(asked))


async def _run(job: Literal["parse", "build"], asked: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *mortal([sys.executable, "-m", "services.knowledge", job]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROGRAM_S_MAX):
            answer, _ = await process.communicate(asked)
    except TimeoutError:
        raise ProgramFailed(f"it took longer than {PROGRAM_S_MAX:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ProgramFailed("it takes too much time or memory to be read")
    return answer
