"""What nobody means: each is an error that names itself, none a 500."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.admin.conftest import ADMIN_KEY, Admin

HEADERS = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "missing_required_parameter"),
        (b"[]", "invalid_value"),
        (b'{"weight": NaN}', "invalid_json"),
        (b'{"weight": Infinity}', "invalid_json"),
        (b'{"weight": 1e400}', "invalid_json"),
        (b'{"weight": 0}', "invalid_value"),
        (b'{"weight": -1}', "invalid_value"),
        (b'{"weight": null}', "invalid_value"),
        (b'{"wait": 1}', "unknown_parameter"),
        (b'{"limits": {"tokens_per_minute": 0}}', "invalid_value"),
        (b'{"limits": {"tokens_per_minute": 99999999999999999999999}}', "invalid_json"),
        (b'{"limits": {"nope": 1}}', "unknown_parameter"),
        (b'{"limits": {"kv_bytes_max": "much"}}', "invalid_value"),
        (b'{"limits": "\xff"}', "invalid_json"),
        (b'{"limits": "\\ud800"}', "invalid_json"),
        (b'{"weight":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json"),
    ],
)
async def test_a_body_that_cannot_be_meant(admin: Admin, body: bytes, code: str) -> None:
    answer = await admin.http.patch("/admin/v1/tenants/acme", headers=HEADERS, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


async def test_a_body_that_is_too_large_or_no_json(admin: Admin) -> None:
    huge = await admin.http.patch("/admin/v1/tenants/acme", headers=HEADERS, content=b" " * (3 * 2**20))
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "request_too_large")
    form = await admin.http.patch(
        "/admin/v1/tenants/acme", headers=HEADERS | {"content-type": "text/plain"}, content=b"{}"
    )
    assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-13-01"},
        {"from": "yesterday"},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "2020-01-01", "to": "2026-11-01"},
        {"from": "0001-01-01", "to": "0001-01-01"},
        {"by": "planet"},
        {"format": "xml"},
    ],
)
async def test_days_that_are_none(admin: Admin, query: dict[str, str]) -> None:
    answer = await admin.raw("GET", "/usage", **query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "quality", "args": {"model": "nope"}}, "args.model"),
        ({"kind": "quality", "args": {"model": "m", "bits": [5]}}, None),
        ({"kind": "quality", "args": {"model": "m", "bits": []}}, None),
        ({"kind": "loadtest", "args": {"scenario": "["}}, "args.scenario"),
        ({"kind": "loadtest", "args": {"scenario": "name: x"}}, "args.scenario"),
        ({"kind": "usage_rollup", "args": {"day": "2026-02-30"}}, "args.day"),
        ({"kind": "autotune", "args": {"perplexity_change_max": 0}}, None),
        ({"kind": "kv_bits", "args": {"bits": 4}}, None),
        ({"args": {}}, None),
    ],
)
async def test_jobs_that_cannot_be(admin: Admin, body: dict[str, Any], param: str | None) -> None:
    error = await admin.refused(400, "POST", "/jobs", body)
    assert param is None or error["param"] == param


async def test_a_scenario_brings_no_keys_and_names_no_variables(admin: Admin) -> None:
    scenario = (
        "{name: x, url: 'http://elsewhere/v1', tenants: [{name: acme, model: acme/support, key_env: HOME, "
        "arrivals: {kind: closed, users: 1}}]}"
    )
    error = await admin.refused(400, "POST", "/jobs", {"kind": "loadtest", "args": {"scenario": scenario}})
    assert "key_env" in error["message"]


MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}, *{a}]}}\n" for a, b in pairwise("abcdefghijklm")
)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "scenario",
    [
        MERGES,
        "a: &a 1\nb: *a",
        "<<: {name: x}",
        "name: !!int 'zz'",
        "name: !!python/name:os.system x",
        "name: 2001-99-99",
        f"duration_s: {'9' * 9000}",
        "[" * 5000,
        "name: \0",
    ],
    ids=["merges", "alias", "merge", "tag", "object", "date", "number", "depth", "control"],
)
async def test_a_scenario_that_only_yaml_can_mean(admin: Admin, scenario: str) -> None:
    error = await admin.refused(400, "POST", "/jobs", {"kind": "loadtest", "args": {"scenario": scenario}})
    assert error["param"] == "args.scenario"
