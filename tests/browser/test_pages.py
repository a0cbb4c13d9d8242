"""The pages in headless Chromium, against a whole host: real Redis, gateway, scheduler, workers and Celery.

Needs `chromium`, `node` and `npm ci` in this folder (scripts/browser installs them). With
BUNKHOUSE_PICTURES=docs/images the pictures are kept there; else they are only taken.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import redis

from tests.host_process import alive

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
START_S_MAX = 60
RUN_S_MAX = 420
PICTURES = "BUNKHOUSE_PICTURES"
CUSTOMERS = 60  # behind the pictures
MISSING = (
    "no chromium on PATH: run scripts/browser"
    if CHROMIUM is None
    else "no node on PATH: run scripts/browser"
    if shutil.which("node") is None
    else "no playwright-core: run scripts/browser"
    if not (HERE / "node_modules" / "playwright-core").is_dir()
    else None
)
SCENARIOS = (
    "log_in",
    "memory_changes_as_chats_run",
    "kv_bits_change_after_a_dry_run",
    "a_click_before_the_scripts_are_there_is_not_lost",
    "kv_bits_below_a_bots_promise_cannot_be_chosen",
    "kv_bits_change_by_a_job_with_progress",
    "chat_in_the_playground",
    "why_is_this_waiting",
    "a_tenant_at_its_limit_waits_and_is_told_why",
    "tenants_and_usage",
    "labels_of_slow_charts_are_whole",
    "a_viewer_looks_and_changes_nothing",
    "a_person_answers_from_the_inbox",
    "no_page_breaks_its_policy_or_overflows",
    "a_refused_change_is_said",
    "a_lost_host_is_said",
    "the_keyboard_reaches_everything",
    "use_the_widget",
    "reload_in_mid_answer_and_it_resumes",
    "a_broken_connection_is_taken_up_again",
    "an_answer_that_was_cut_says_so",
    "hand_over_to_a_person",
    "an_answer_whose_stream_is_gone_is_read_from_the_conversation",
    "a_page_that_loads_while_the_host_is_away_gets_its_widget",
    "it_speaks_the_visitors_language",
    "stop_an_answer_and_write_on",
    "rate_an_answer",
    "sources_are_links_of_the_web_only",
    "files_are_refused_kindly",
    "a_person_takes_over",
    "a_question_before_an_action",
    "a_bot_that_is_switched_off",
    "the_shops_side_logo_and_colour",
    "a_visitor_whose_token_is_wrong_is_a_stranger",
    "the_widget_fits_a_low_window",
    "the_widget_fits_a_phone",
)

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(START_S_MAX + RUN_S_MAX + 60),
]


class Desk(BaseHTTPRequestHandler):
    """Where visitors who ask for a person are announced."""

    taken: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def desk() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Desk)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


def staged(redis_server: str, log: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """The stage in a process of its own, over an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    command = [sys.executable, "-m", "tests.browser.stage", redis_server, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()[-4000:]
        yield json.loads(line)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for each in alive(family):  # one that is late would claim the next stage's Redis
            each.kill()
        psutil.wait_procs(family, timeout=10)
        assert process.stdout is not None
        process.stdout.close()


def played(stage: dict[str, str], out: Path, group: str) -> dict[str, str | None]:
    """Every scenario's error, or None where it went well."""
    command = ["node", "scenarios.mjs", str(CHROMIUM), stage["url"], stage["admin_key"], str(out), group]
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, timeout=RUN_S_MAX, start_new_session=True, check=False
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results, done.stderr[-4000:]
    return {result["name"]: result["error"] for result in results}


@pytest.fixture(scope="module")
def results(redis_server: str, desk: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str | None]]:
    """All scenarios, played once on an idle host."""
    out = tmp_path_factory.mktemp("pages")
    for stage in staged(redis_server, out / "stage.log", "--webhook", desk, "--jobs"):
        yield played(stage, out, "people")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_person(results: dict[str, str | None], name: str) -> None:
    assert results[name] is None, results[name]


def test_the_webhook_got_the_conversation(results: dict[str, str | None]) -> None:
    assert results["hand_over_to_a_person"] is None
    [message] = [taken for taken in Desk.taken if taken["contact"] == "ada@example.com"]
    assert message["event"] == "handover.requested"
    assert message["note"] == "It is the elm one."
    assert message["page"].endswith("/widget/demo")
    assert [turn["who"] for turn in message["turns"]] == ["visitor", "bot"]
    assert "repair every piece" in message["turns"][1]["text"]


def test_pictures(redis_server: str, desk: str, tmp_path: Path) -> None:
    out = ROOT / os.environ[PICTURES] if PICTURES in os.environ else tmp_path
    customers = str(CUSTOMERS if PICTURES in os.environ else 6)
    for stage in staged(redis_server, tmp_path / "stage.log", "--webhook", desk, "--jobs", "--customers", customers):
        errors = {name: error for name, error in played(stage, out, "pictures").items() if error}
    assert not errors, errors
    for name in ("dashboard-now", "dashboard-dry-run", "dashboard-playground", "widget"):
        for look in ("1920-light", "1920-dark", "375-light", "375-dark"):
            assert (out / f"{name}-{look}.png").stat().st_size > 5_000
