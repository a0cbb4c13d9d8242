"""`python -m tests.faults.harness`: a thousand chats a scenario; writes docs/benchmarks/faults.json and prints a table.

Takes a good hour on two cores: `--chats 200` and `--only "kill gateway"` make it shorter, and the file says so.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.output import keep, write
from services.process.children import raise_open_files_limit
from tests.faults.harness.audit import Figures
from tests.faults.harness.scenarios import FULL, SCENARIOS, Plan, play
from tests.faults.harness.scene import HOSTS


async def run(plan: Plan, names: list[str], out: Path) -> list[Figures]:
    """Every scenario on a host of its own. What is known is kept after each: the next one may be the last."""
    found: list[Figures] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bh-faults-") as folder:
            async with HOSTS[SCENARIOS[name].where](Path(folder)) as scene:
                found.append(await play(name, scene, plan))
        print(found[-1].line(), flush=True)
        keep(out, as_json(plan, found))
    return found


def as_json(plan: Plan, found: list[Figures]) -> dict[str, object]:
    return {"plan": asdict(plan), "scenarios": [asdict(one) for one in found]}


def table(found: list[Figures]) -> str:
    """Markdown."""
    lines = [
        "| scenario | sent | under way as the fault began, ended | answered | refused with a reason | lost | doubled | "
        "longest stall |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        began, ended = one.under_way
        lines.append(
            f"| {one.scenario} | {one.sent} | {began}, {ended} | {one.answered} | {one.refusals} | {one.lost} "
            f"| {one.doubled} | {one.longest_stall_s:.1f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    """Exit status 1 when anything was lost, doubled or left over."""
    parser = argparse.ArgumentParser(prog="tests.faults.harness", description=__doc__)
    parser.add_argument("--chats", type=int, default=FULL.count)
    parser.add_argument("--per-s", type=float, default=FULL.per_s)
    parser.add_argument("--seed", type=int, default=FULL.seed)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="may be given more than once")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/faults.json"))
    wanted = parser.parse_args()
    raise_open_files_limit()  # a socket a chat, here and in the host's gateway
    plan = replace(FULL, count=wanted.chats, per_s=wanted.per_s, seed=wanted.seed)
    found = asyncio.run(run(plan, wanted.only or list(SCENARIOS), wanted.out))
    print(table(found))
    write(wanted.out, as_json(plan, found))
    return 0 if all(one.good for one in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
