"""What the page shows adds up to what the host says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.schemas import Job, Overview, UsageRow
from gateway.dashboard import view
from gateway.dashboard.jobs import row
from gateway.dashboard.recorder import buckets, median
from gateway.dashboard.render import ago, amount, milliseconds, page
from gateway.dashboard.usage import UsagePage
from gateway.metrics import Metrics
from services.contracts.engines import EngineReport, EngineState
from services.contracts.explanation import Explanation
from services.contracts.units import bytes_in_words
from tests.snapshots import MODEL

GB = 10**9


def model(name: str = "m", **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "engine": "sglang",
        "heard_s": 1.0,
        "context_tokens": 2048,
        "device": "gpu0",
        "state": "ready",
        "kv_bits": 8,
        "kv_bits_live": True,
        "kv_bits_possible": [16, 8, 4],
        "weight_bytes": 5 * GB,
        "overhead_bytes": GB,
        "kv_budget_bytes": 4 * GB,
        "chats_max": 8,
        "running": 0,
        "job": None,
        "bots": [],
    } | given


def account(**given: Any) -> dict[str, Any]:
    return (
        asdict(MODEL)
        | {
            "stale": False,
            "reserved_by_bits": {"16": GB, "4": GB // 2},
            "reserved_bytes": GB + GB // 2,
            "used_bytes": GB,
            "cached_bytes": GB // 4,
            "withheld_bytes": 0,
            "running": 3,
            "waiting": {"acme": 2},
            "blocked": {"acme": "kv_memory"},
            "observed_inter_token_s": 0.02,
            "predicted_inter_token_s": None,
            "target_unattainable": False,
        }
        | given
    )


def overview(**accounts: dict[str, Any]) -> dict[str, Any]:
    return {
        "at_s": 1.0,
        "models": [model(name) for name in accounts],
        "devices": [{"id": "gpu0", "total_bytes": 24 * GB, "reserve_bytes": GB}],
        "snapshot": {
            "at_s": 1.0,
            "models": accounts,
            "waiting": 2,
            "waiting_per_tenant": {"acme": 2},
            "chats_per_tenant": {"acme": 3},
            "kv_bytes_per_tenant": {"acme": GB},
            "sessions": 3,
            "counters": {},
        },
    }


REPORT = {"m": EngineReport("m", 1.0, EngineState.READY, inter_token_s=0.02, running=3, step_kv_bytes=GB)}


def now_of(found: dict[str, Any], reports: Mapping[str, EngineReport], most: Mapping[str, float]) -> view.Now:
    """What the page shows of an overview's JSON."""
    return view.now(Overview.model_validate(found), reports, most)


def test_the_card_is_full_to_the_last_byte() -> None:
    now = now_of(overview(m=account(), n=account()), REPORT, {})
    assert sum(segment.size for segment in now.cards[0].segments) == now.cards[0].total == 24 * GB
    assert sum(segment.width for segment in now.cards[0].segments) == pytest.approx(100)
    assert [group.model for group in now.cards[0].groups] == ["m", "n"]
    sums = {kind: size for kind, _, size in now.cards[0].sums}
    assert sums["weights"] == 10 * GB
    assert sums["kv16"] == 2 * GB
    assert sums["kv4"] == GB
    assert sums["reserve"] == GB


@given(
    st.lists(st.integers(0, 10**11), min_size=3, max_size=3),
    st.integers(0, 10**11),
    st.integers(0, 10**11),
    st.integers(0, 10**11),
    st.one_of(st.none(), st.integers(0, 10**12)),
)
def test_segments_never_overlap_whatever_the_host_says(
    bits: list[int], cached: int, withheld: int, budget: int, card: int | None
) -> None:
    found = overview(
        m=account(
            reserved_by_bits=dict(zip(("16", "8", "4"), bits, strict=True)),
            cached_bytes=cached,
            withheld_bytes=withheld,
        )
    )
    found["devices"][0]["total_bytes"] = card
    found["models"][0]["kv_budget_bytes"] = budget
    now = now_of(found, {}, {})
    at = 0.0
    for segment in now.cards[0].segments:
        assert segment.size > 0
        assert segment.x == pytest.approx(at, abs=1e-6)
        at += segment.width
    assert at <= 100 + 1e-6
    assert now.cards[0].held <= now.cards[0].total


def test_bandwidth_counts_weights_and_running_kv_once_a_step() -> None:
    now = now_of(overview(m=account()), REPORT, {"gpu0": 600e9})
    assert now.bandwidths[0].bytes_per_s == pytest.approx((5 * GB + GB) / 0.02)
    assert now.bandwidths[0].part == pytest.approx(50)
    idle = now_of(overview(m=account()), {"m": EngineReport("m", 1.0, EngineState.READY)}, {})
    assert idle.bandwidths[0].part is None
    assert idle.bandwidths[0].stretches == []


def test_each_device_has_its_own_map_and_gauge() -> None:
    found = overview(m=account(), n=account())
    found["devices"].append({"id": "cpu", "total_bytes": 8 * GB, "reserve_bytes": GB})
    found["models"][1]["device"] = "cpu"
    now = now_of(found, REPORT, {"gpu0": 600e9})
    assert [(card.title, [group.model for group in card.groups]) for card in now.cards] == [
        ("Memory of gpu0", ["m"]),
        ("Memory of the machine", ["n"]),
    ]
    assert [card.total for card in now.cards] == [24 * GB, 11 * GB], "what is planned, where the device is smaller"
    assert [(gauge.device, gauge.most) for gauge in now.bandwidths] == [("gpu0", 600e9), ("cpu", None)]
    assert now.bandwidths[1].stretches == []
    html = bytes(page("parts/now.html", now=now, jobs=[]).body).decode()
    assert html.count('class="memory"') == html.count('class="dial"') == 2


@pytest.mark.parametrize("state", ["asleep", "down"])
def test_a_model_that_is_not_loaded_holds_no_memory(state: str) -> None:
    found = overview(m=account(), n=account())
    found["models"][1]["state"] = state
    now = now_of(found, REPORT, {})
    sums = {kind: size for kind, _, size in now.cards[0].sums}
    assert sums["weights"] == 5 * GB
    assert sums["aside"] == 10 * GB
    assert now.cards[0].held == 6 * GB + GB + GB // 2 + GB // 4, "m's only"
    assert [segment.kind for segment in now.models[1].pool] == ["aside"]
    html = bytes(page("parts/now.html", now=now, jobs=[]).body).decode()
    assert "n. Kept for a model that is not loaded: 10.0 GB" in html


def test_words() -> None:
    assert now_of(overview(m=account()), {}, {}).sentence == "1 model serves 3 chats. 2 chats wait."
    silent = overview(m=account())
    silent["snapshot"] = None
    now = now_of(silent, {}, {})
    assert now.sentence == "No scheduler is running, so no chat is admitted."
    assert now.tenants == []
    down = overview(m=account())
    down["models"][0]["state"] = "down"
    assert now_of(down, {}, {}).sentence.startswith("0 models of 1 ready")
    assert now_of(overview(m=account()), {}, {}).tenants[0].why == "no KV memory is free"


def test_a_chat_that_waits_for_a_change_of_its_model_is_not_said_to_wait_for_a_dead_engine() -> None:
    words = {"down": "engine is down", "draining": "engine is being changed", "starting": "engine is starting"}
    for state, why in words.items():
        now = now_of(overview(m=account(state=state, blocked={"acme": "model_down"})), {}, {})
        assert now.tenants[0].why == why


def test_a_model_that_was_never_heard_of_is_drawn_empty() -> None:
    never = model(weight_bytes=None, overhead_bytes=None, kv_budget_bytes=None, state="down", kv_bits=None)
    found = overview(m=account()) | {"models": [never]}
    found["snapshot"]["models"] = {}
    now = now_of(found, {}, {})
    assert now.models[0].pool == []
    html = bytes(page("parts/now.html", now=now, jobs=[]).body).decode()
    assert "state-down" in html


def test_names_from_outside_stay_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    html = bytes(page("parts/now.html", now=now_of(overview(**{evil: account()}), {}, {}), jobs=[]).body).decode()
    assert "<img" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (4096, "4 kB"),
        (84_934_656, "85 MB"),
        (24 * GB, "24.0 GB"),
        (150 * GB, "150 GB"),
        (1e12, "1.0 TB"),
    ],
)
def test_bytes(size: float, words: str) -> None:
    assert bytes_in_words(size) == words


def test_numbers_as_people_write_them() -> None:
    assert [milliseconds(value) for value in (None, 0.04, 14.24, 140.6, 1400.0)] == [
        "–",
        "0.0 ms",
        "14.2 ms",
        "141 ms",
        "1.4 s",
    ]
    assert [amount(value) for value in (None, 12_480, 3_200_000, 2.5e9)] == [
        "–",
        "12,480",
        "3.20 million",
        "2.50 billion",
    ]
    assert ago(0).count(" ") == 1


def test_an_explanations_words_stand_as_they_are_and_its_numbers_have_units() -> None:
    words = "It answers about order 84934656 bytes long."
    found = Explanation(chat="c", state="refused", why=words, numbers={"need_bytes": 84934656})
    html = bytes(page("parts/explained.html", chat=asdict(found)).body).decode()
    assert words in html
    assert "<dd>85 MB</dd>" in html


def test_the_median_of_the_last_half_minute() -> None:
    metrics = Metrics()
    before = buckets(metrics)
    for seconds in (0.03, 0.07, 0.08, 0.09, 4.0):
        metrics.first_token.labels("a/b").observe(seconds)
    found = median(before, buckets(metrics))
    assert found is not None
    assert 0.05 < found < 0.1
    assert median(buckets(metrics), buckets(metrics)) is None
    metrics.first_token.labels("a/b").observe(1e6)
    assert median(dict.fromkeys(buckets(metrics), 5.0), buckets(metrics)) == 120.0


def job(**given: Any) -> Job:
    known = {"id": "job-1", "kind": "kv_bits", "target": "m", "args": {"bits": 4}, "created_s": 1.0}
    return Job.model_validate(known | {"state": "succeeded", "progress": 1.0, "words": "done"} | given)


PROPOSAL = {"bot": "a/b", "model": "m", "before": {"policy": "auto"}, "after": {"policy": "pressure"}, "why": "short"}
DROPPED = {"bot": "a/b", "why": "The model holds 16 bits."}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (job(result={"kv_bits": 4}), "holds KV at 4 bits now"),
        (job(state="running", words="draining", result=None), "draining"),
        (job(state="failed", error="It did not fit."), "It did not fit."),
        (job(kind="usage_rollup", result={"day": "2026-11-23", "rows": 1}), "summed up 2026-11-23: 1 row"),
        (job(kind="autotune", result={"proposals": []}), "no proposals"),
        (job(kind="autotune", result={"proposals": [PROPOSAL, PROPOSAL]}), "2 proposals"),
        (job(kind="autotune", result={"proposals": [PROPOSAL], "changed": ["a/b"]}), "changed a/b"),
        (
            job(kind="autotune", result={"proposals": [], "dropped": [DROPPED, DROPPED]}),
            "no proposals left: 2 dropped",
        ),
        (job(kind="autotune", result={"proposals": [PROPOSAL], "dropped": [DROPPED]}), "1 proposal; 1 dropped"),
        (
            job(kind="quality", result={"measured": [{"bits": 4, "perplexity_change": 0.048, "source": "a job"}]}),
            "Perplexity: 4 bits +4.8%",
        ),
        (job(kind="quality", result={"figures": "of another version"}), "done"),
        (job(kind="wake", result={"x": 1}), "done"),
    ],
)
def test_jobs_in_words(found: Job, words: str) -> None:
    assert row(found).words == words


def test_usage_adds_up() -> None:
    row = UsageRow(
        day="2026-11-24",
        tenant="acme",
        bot="acme/help",
        chats=2,
        prompt_tokens=10,
        cached_tokens=3,
        completion_tokens=5,
        kv_byte_seconds=3.6e12,
        queue_seconds=1.0,
        overflow_usd=0.5,
        refused={"deadline": 2},
    )
    other = row.model_copy(update={"day": "2026-11-23", "tenant": "globex", "refused": {}})
    usage = UsagePage.of([row, row, other], "2026-11-22", "2026-11-24")
    assert [day.tokens for day in usage.days] == [0, 15, 30]
    assert [tenant.tenant for tenant in usage.tenants] == ["acme", "globex"]
    assert usage.total.chats == 6
    assert usage.tenants[0].gigabyte_hours == pytest.approx(2.0)
    assert usage.tenants[0].reasons == "4 deadline"
    assert usage.days[2].parts == [(0, 0.0, 100.0)]
    nothing = UsagePage.of([], "2026-11-24", "2026-11-24")
    assert nothing.total.queue_s == 0.0


def test_a_tenant_keeps_its_colour_whatever_else_is_shown() -> None:
    """Colours went by the order of the sums, so another week or tenant changed them all."""
    names = ["acme", "globex", "initech", "umbrella"]
    rows = [
        UsageRow(day="2026-11-24", tenant=name, chats=1, prompt_tokens=size, completion_tokens=1)
        for size, name in enumerate(names)
    ]
    every = UsagePage.of(rows, "2026-11-24", "2026-11-24", names)
    hues = {tenant.tenant: tenant.hue for tenant in every.tenants}
    for one in rows:
        [alone] = UsagePage.of([one], "2026-11-24", "2026-11-24", names).tenants
        assert alone.hue == hues[alone.tenant]
    assert hues == {"acme": 0, "globex": 1, "initech": 2, "umbrella": 3}


def test_a_gauge_without_a_maximum_is_not_drawn_full() -> None:
    """676 GB/s of an unknown maximum looked like all of it."""
    stretches = [view.Stretch("m", 0, 6e11, 0.0, 100.0)]
    together = page(
        "parts/gauge.html", b=view.Bandwidth("gpu0", 6e11, 1e12, stretches, "Models take turns: <why>.")
    ).body
    assert b"Models take turns: &lt;why&gt;." in together
    unknown = page("parts/gauge.html", b=view.Bandwidth("cpu", 6e11, None, stretches)).body
    assert b"stroke-hue0" not in unknown
    assert b"600 GB/s" in unknown
    known = page("parts/gauge.html", b=view.Bandwidth("cpu", 6e11, 1e12, stretches)).body
    assert b"stroke-hue0" in known
