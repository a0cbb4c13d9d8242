"""docs/clients.md and the figures, from the results of a run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence

from tests.clients import environments
from tests.clients.runner import CLIENTS, Client, Result

Results = Mapping[str, Sequence[Result]]

HEAD = """\
# Clients

`make test-clients` runs unmodified clients, each with its own packages, against a host on llama.cpp and SmolLM2-135M,
and writes this page. Each number counts checks that passed; `2 of 3` means that one failed. An empty cell means that
the client lacks the feature or that no check covers it. A check asserts what a user of the client notices: a typed
result that validates, a tool called with valid arguments, text that comes in more than one piece.

"""
FEATURES = {  # columns, in this order; the scripts use the keys
    "models": "models",
    "chat": "chat",
    "system": "system prompt",
    "stream": "stream",
    "usage": "usage",
    "tools": "tools",
    "round trip": "tool round trip",
    "typed": "typed output",
    "reasoning": "reasoning",
    "sampling": "sampling",
    "stop": "stop",
    "n": "n",
    "logprobs": "logprobs",
    "hints": "hints",
    "errors": "errors",
    "completions": "completions",
    "scoring": "prompt logprobs",
    "responses": "responses",
    "messages": "messages",
}


def figures(results: Results) -> dict[str, object]:
    """Counts of all, and of each client (passed, checks); the checks that failed by name."""
    checks = [(name, each) for name, found in results.items() for each in found]
    return {
        "clients": len(results),
        "clients_checks": len(checks),
        "clients_passed": sum(each.passed for _, each in checks),
        "failed": [f"{name}: {each.check}" for name, each in checks if not each.passed],
        "checks": {
            name: {"checks": len(found), "passed": sum(r.passed for r in found)} for name, found in results.items()
        },
    }


def table(results: Results) -> str:
    """The page: a row a client, a column a feature, then what each check says."""
    used = [key for key in FEATURES if any(each.feature == key for found in results.values() for each in found)]
    clients = {client.name: client for client in CLIENTS}
    lines = [f"| client | version | {' | '.join(FEATURES[key] for key in used)} |", "| --- " * (len(used) + 2) + "|"]
    for name, found in results.items():
        cells = [_cell([each for each in found if each.feature == key]) for key in used]
        lines.append(f"| {name} | {version(clients[name])} | {' | '.join(cells)} |")
    sections = [_section(name, found) for name, found in results.items()]
    return HEAD + "\n".join(lines) + "\n\n## What was checked\n" + "".join(sections)


def _cell(found: Sequence[Result]) -> str:
    passed = sum(each.passed for each in found)
    return "" if not found else str(passed) if passed == len(found) else f"{passed} of {len(found)}"


def _section(name: str, found: Sequence[Result]) -> str:
    lines = [f"- {'' if each.passed else 'FAILED: '}{each.check}" for each in found]
    return f"\n### {name}\n\n" + "\n".join(lines) + "\n"


def version(client: Client) -> str:
    """Of a client's package, as its environment has it."""
    if client.environment == environments.NODE:
        path = environments.folder(environments.NODE) / "node_modules" / client.package / "package.json"
        return str(json.loads(path.read_text())["version"])
    if client.environment == environments.VLLM:
        return environments.VLLM_WHEEL.partition("==")[2]
    code = f"from importlib.metadata import version; print(version({client.package!r}))"
    done = subprocess.run(
        [environments.python(client.environment), "-c", code], capture_output=True, text=True, check=True
    )
    return re.sub(r"\s", "", done.stdout)
