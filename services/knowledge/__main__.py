"""Reading documents and building indexes, in a process of their own: `python -m services.knowledge parse|build`.

A file from elsewhere may be made to exhaust a parser; here it takes LIMIT_BYTES and LIMIT_S at most, and no gateway
waits for it. One JSON object comes on stdin, one goes out on stdout.
"""

from __future__ import annotations

import base64
import resource
import sys
from pathlib import Path

import orjson

from services.contracts.knowledge import Passage
from services.knowledge.index import build
from services.knowledge.parsing import DocumentUnreadable
from services.knowledge.passages import passages_of

LIMIT_S = 120
LIMIT_BYTES = 2 * 2**30


def main() -> None:
    """One job."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    asked = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(orjson.dumps(_parsed(asked) if sys.argv[1] == "parse" else _built(asked)))


def _parsed(asked: dict[str, str]) -> object:
    data = base64.b64decode(asked["data"])
    try:
        found = passages_of(asked["name"], data, title=asked["title"], url=asked["url"] or None, source=asked["source"])
    except (DocumentUnreadable, MemoryError, RecursionError) as error:
        return {"error": str(error) or "the document is too large to be read"}
    return {"passages": found}


def _built(asked: dict[str, object]) -> object:
    """Of passages, and of files in the configuration; what cannot be read of those is left out and named."""
    passages = [Passage(**each) for each in asked["passages"]]  # type: ignore[attr-defined]
    problems: list[str] = []
    for name in asked["files"]:  # type: ignore[attr-defined]
        path = Path(name)
        try:
            passages += passages_of(path.name, path.read_bytes(), source=path.name)
        except DocumentUnreadable as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    return {"size": build(Path(str(asked["path"])), passages, problems), "problems": problems}


if __name__ == "__main__":
    main()
