"""Tenants, keys and bots: what the admin API changes in the registry, and what it writes down."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from hashlib import sha256

import orjson

from services.config.schema import TenantConfig
from services.store import redis_keys as keys
from services.store.registry import Keyring, Registry, seeded
from services.store.registry_edit import read_registry, write_registry
from services.store.scheduling import SchedulerStore
from tests.admin.conftest import ACME, CONFIG, PEPPER, Admin
from tests.snapshots import snapshot


async def works(admin: Admin, key: str, at_s: float | None = None) -> str | None:
    registry = await read_registry(admin.gateway.connection)
    return Keyring(registry, PEPPER).tenant_of(key, time.time() if at_s is None else at_s)


async def test_a_tenant_is_made_changed_and_deleted(admin: Admin) -> None:
    made = await admin.ask("POST", "/tenants", {"name": "initech", "limits": {"chats_max": 2}})
    assert (made["weight"], made["limits"]["chats_max"], made["keys"]) == (1.0, 2, 0)
    assert (await admin.refused(409, "POST", "/tenants", {"name": "initech"}))["code"] == "exists"
    changed = await admin.ask("PATCH", "/tenants/initech", {"weight": 3})
    assert (changed["weight"], changed["limits"]["chats_max"]) == (3.0, 2)
    await admin.ask("DELETE", "/tenants/initech")
    await admin.refused(404, "GET", "/tenants/initech")
    actions = [entry["action"] for entry in (await admin.ask("GET", "/audit"))["items"]]
    assert actions == ["tenant.delete", "tenant.change", "tenant.create"]


async def test_a_deleted_tenant_stays_away_until_its_section_changes(admin: Admin) -> None:
    connection = admin.gateway.connection
    await admin.ask("DELETE", "/tenants/acme")
    assert await works(admin, ACME) is None
    for config, there in (
        (CONFIG, False),
        (
            CONFIG.model_copy(update={"tenants": {"acme": CONFIG.tenants["acme"].model_copy(update={"weight": 2})}}),
            True,
        ),
    ):
        now = await read_registry(connection)
        assert await write_registry(connection, now.version, seeded(now, config, PEPPER, time.time()))
        assert ("acme" in (await read_registry(connection)).tenants) is there


class LaterTenant(TenantConfig):
    """As a later release may know it."""

    colour: str = "red"


def changed_by_hand(now: Registry) -> Registry:
    """The admin API deleted one tenant and gave another a weight."""
    acme = now.tenants["acme"]
    heavy = acme.model_copy(update={"config": acme.config.model_copy(update={"weight": 7.0})})
    return now.model_copy(update={"tenants": {"acme": heavy}, "deleted": {"globex": now.tenants["globex"].seed}})


def test_a_release_that_adds_a_setting_changes_no_section() -> None:
    before = changed_by_hand(seeded(Registry(), CONFIG, PEPPER, 0.0))
    later = {name: LaterTenant.model_validate(section.model_dump()) for name, section in CONFIG.tenants.items()}
    after = seeded(before, CONFIG.model_copy(update={"tenants": later}), PEPPER, 0.0)
    assert (after.tenants, after.deleted) == (before.tenants, before.deleted)
    blue = {"acme": later["acme"].model_copy(update={"colour": "blue"})}
    assert seeded(after, CONFIG.model_copy(update={"tenants": blue}), PEPPER, 0.0).tenants["acme"].config.weight == 1.0


def test_a_registry_of_the_release_before_keeps_its_changes() -> None:
    fresh = seeded(Registry(), CONFIG, PEPPER, 0.0)
    stored = {
        name: record.model_copy(update={"seed": sha256(record.config.model_dump_json().encode()).hexdigest()[:16]})
        for name, record in fresh.tenants.items()
    }
    after = seeded(changed_by_hand(fresh.model_copy(update={"tenants": stored})), CONFIG, PEPPER, 0.0)
    assert after.tenants["acme"].config.weight == 7.0
    assert after.tenants["acme"].seed == fresh.tenants["acme"].seed
    assert after.deleted == {"globex": fresh.tenants["globex"].seed}


async def test_a_tenant_stored_before_its_settings_had_bounds_stays_readable(admin: Admin) -> None:
    now = await read_registry(admin.gateway.connection)
    acme = now.tenants["acme"].config
    bots = {name: bot.model_copy(update={"queue_wait_s_max": 86_400.0}) for name, bot in acme.bots.items()}
    wide = now.tenants["acme"].model_copy(update={"config": acme.model_copy(update={"weight": 1e-320, "bots": bots})})
    stored = now.model_copy(update={"version": now.version + 1, "tenants": now.tenants | {"acme": wide}})
    assert await write_registry(admin.gateway.connection, now.version, stored)
    read = (await read_registry(admin.gateway.connection)).tenants["acme"].config
    assert read.weight == 0.001
    assert {bot.queue_wait_s_max for bot in read.bots.values()} == {3600.0}


async def test_a_bot_stored_by_a_former_name_stays_as_it_is(admin: Admin) -> None:
    now = await read_registry(admin.gateway.connection)
    fresh = now.model_dump(mode="json")
    bot = fresh["tenants"]["acme"]["config"]["bots"]["support"]
    bot["max_tokens_default"] = 77
    del bot["answer_tokens_max"]
    assert await admin.gateway.connection.redis.hset(keys.REGISTRY, "document", orjson.dumps(fresh)) == 0
    read = (await read_registry(admin.gateway.connection)).tenants["acme"].config
    assert read.bots["support"].answer_tokens_max == 77
    changed = await admin.ask("PATCH", "/bots/acme/support", {"max_tokens_default": 99})
    assert changed["config"]["answer_tokens_max"] == 99
    changed = await admin.ask("PATCH", "/bots/acme/support", {"max_tokens_default": None})
    assert changed["config"]["answer_tokens_max"] == 1024


def test_a_section_stored_by_a_former_name_is_recognized() -> None:
    acme = CONFIG.tenants["acme"]
    bots = {name: bot.model_copy(update={"answer_tokens_max": 5}) for name, bot in acme.bots.items()}
    section = acme.model_copy(update={"bots": bots})
    said = section.model_dump_json(exclude_defaults=True).replace("answer_tokens_max", "max_tokens_default")
    config = CONFIG.model_copy(update={"tenants": {"acme": section}})
    fresh = seeded(Registry(), config, PEPPER, 0.0)
    stored = fresh.tenants["acme"].model_copy(
        update={"seed": sha256(said.encode()).hexdigest()[:16], "config": section.model_copy(update={"weight": 7.0})}
    )
    after = seeded(fresh.model_copy(update={"tenants": {"acme": stored}}), config, PEPPER, 0.0)
    assert after.tenants["acme"].config.weight == 7.0
    assert after.tenants["acme"].seed == fresh.tenants["acme"].seed


async def test_a_key_is_shown_once_and_rotates_with_overlap(admin: Admin) -> None:
    made = await admin.ask("POST", "/tenants/acme/keys", {})
    assert await works(admin, made["key"]) == "acme"
    listed = (await admin.ask("GET", "/tenants/acme/keys"))["items"]
    assert {key["id"] for key in listed} == {"acme-ready", made["id"]}
    assert all("key" not in key and "digest" not in key for key in listed)
    again = await admin.ask("POST", f"/tenants/acme/keys/{made['id']}/rotate", {"overlap_s": 60})
    assert await works(admin, again["key"]) == await works(admin, made["key"]) == "acme"
    assert await works(admin, made["key"], time.time() + 61) is None
    assert await works(admin, again["key"], time.time() + 61) == "acme"
    await admin.ask("DELETE", f"/tenants/acme/keys/{again['id']}")
    assert await works(admin, again["key"]) is None
    audit = (await admin.raw("GET", "/audit")).text
    assert made["key"] not in audit
    assert again["key"] not in audit


async def test_a_revoked_ready_key_is_not_made_again(admin: Admin) -> None:
    connection = admin.gateway.connection
    await admin.ask("DELETE", "/tenants/acme/keys/acme-ready")
    now = await read_registry(connection)
    assert await write_registry(connection, now.version, seeded(now, CONFIG, PEPPER, time.time()))
    assert await works(admin, ACME) is None


async def test_a_clock_that_jumps_back_revives_no_revoked_key(admin: Admin) -> None:
    made = await admin.ask("POST", "/tenants/acme/keys", {"expires_in_s": 60})
    await admin.ask("DELETE", f"/tenants/acme/keys/{made['id']}")
    assert await works(admin, made["key"], time.time() - 3600) is None


async def test_a_bot_is_put_and_deleted(admin: Admin) -> None:
    bot = {"model": "m", "system": "You sell shoes.", "kv": {"policy": "fixed", "bits": 8}}
    assert (await admin.ask("PUT", "/bots/acme/shoes", bot))["config"]["system"] == "You sell shoes."
    assert (await admin.ask("GET", "/bots", tenant="acme"))["items"][1]["id"] == "acme/shoes"
    for change, param in (
        ({"model": "nope"}, "model"),
        ({"adapter": "x"}, "adapter"),
        ({"overflow": "x"}, "overflow"),
        ({"context_tokens": 4096}, "context_tokens"),
        ({"kv": {"policy": "fixed"}}, "kv.bits"),
        ({"kv": {"floor": 16, "ceiling": 4}}, "kv.ceiling"),
        ({"kv": {"policy": "medical", "floor": 4, "bits": 4}}, "kv.bits"),
        ({"temperature": 1}, "temperature"),
    ):
        assert (await admin.refused(400, "PUT", "/bots/acme/shoes", bot | change))["param"] == param
    await admin.refused(400, "PUT", "/bots/acme/Not a name", bot)
    await admin.refused(404, "PUT", "/bots/nobody/shoes", bot)
    await admin.ask("DELETE", "/bots/acme/shoes")
    await admin.refused(404, "GET", "/bots/acme/shoes")


async def test_changes_at_the_same_time_are_all_made(admin: Admin) -> None:
    made = await asyncio.gather(*(admin.ask("POST", "/tenants/acme/keys", {}) for _ in range(8)))
    assert len({key["id"] for key in made}) == 8
    assert len((await admin.ask("GET", "/tenants/acme/keys"))["items"]) == 9
    entries = (await admin.ask("GET", "/audit"))["items"]
    assert sorted(entry["target"] for entry in entries) == sorted(f"acme/{key['id']}" for key in made)


async def test_the_audit_log_says_who_when_before_and_after(admin: Admin) -> None:
    begin_s = time.time()
    key = (await admin.ask("POST", "/admins", {"name": "night", "role": "operator"}))["key"]
    await admin.ask("PATCH", "/tenants/acme", {"limits": {"tokens_per_minute": 100}}, key=key)
    entry = (await admin.ask("GET", "/audit", limit=1))["items"][0]
    assert (entry["who"], entry["role"], entry["action"], entry["target"]) == (
        "night",
        "operator",
        "tenant.change",
        "acme",
    )
    assert entry["at_s"] >= begin_s
    assert entry["before"]["limits"]["tokens_per_minute"] is None
    assert entry["after"]["limits"]["tokens_per_minute"] == 100
    assert (await admin.ask("GET", "/audit", limit=1))["more"]
    rows = list(csv.DictReader(io.StringIO((await admin.raw("GET", "/audit", format="csv")).text)))
    assert [row["action"] for row in rows] == ["tenant.change", "admin.create"]
    assert (await admin.ask("GET", "/audit", until_s=begin_s - 60))["items"] == []


async def test_a_quota_below_use_is_said(admin: Admin) -> None:
    held = snapshot(chats_per_tenant={"acme": 5}, kv_bytes_per_tenant={"acme": 900})
    await SchedulerStore(admin.gateway.connection).publish_snapshot(held, 60_000)
    changed = await admin.ask("PATCH", "/tenants/acme", {"limits": {"chats_max": 2, "kv_bytes_max": 1000}})
    assert changed["over"] == ["chats_max"]
    assert changed["use"]["chats_running"] == 5


async def test_a_patch_leaves_what_it_does_not_name(admin: Admin) -> None:
    await admin.ask("PATCH", "/tenants/acme", {"limits": {"chats_max": 2, "tokens_per_minute": 900}})
    changed = await admin.ask("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 60, "chats_max": None}})
    limits = {name: value for name, value in changed["limits"].items() if value is not None}
    assert limits == {"tokens_per_minute": 900, "requests_per_minute": 60}


async def test_a_patched_bot_keeps_its_widget(admin: Admin) -> None:
    widget = {"allowed_origins": ["https://shop.example"], "title": "Help"}
    await admin.ask("PUT", "/bots/acme/support", {"model": "m", "system": "You help.", "widget": widget})
    change = {"system": "You help briefly.", "widget": {"title": "Support"}}
    changed = (await admin.ask("PATCH", "/bots/acme/support", change))["config"]
    assert (changed["system"], changed["model"]) == ("You help briefly.", "m")
    assert (changed["widget"]["title"], changed["widget"]["allowed_origins"]) == ("Support", ["https://shop.example"])
    assert (await admin.ask("PATCH", "/bots/acme/support", {"widget": None}))["config"]["widget"] is None
    bad = await admin.refused(400, "PATCH", "/bots/acme/support", {"kv": {"floor": 5}})
    assert bad["param"] == "kv.floor"
    assert (await admin.refused(400, "PATCH", "/bots/acme/support", {"colour": "red"}))["param"] == "colour"
    await admin.refused(404, "PATCH", "/bots/acme/nobody", {"system": ""})
    assert (await admin.ask("GET", "/bots/acme/support"))["config"]["system"] == "You help briefly."
