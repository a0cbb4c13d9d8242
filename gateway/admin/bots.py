"""Bots: what tenants call as `model`. A change counts from the next chat on; running chats finish as they began."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Body, Path, Query, status
from pydantic import JsonValue, ValidationError

from gateway.actions.catalog import action_problem
from gateway.admin.auth import Operator, Viewer
from gateway.admin.common import Host, bot_of, merged, note, routes, tenant_of
from gateway.admin.errors import BadValue
from gateway.admin.schemas import Bot, Page
from services.config.actions import secret_problem
from services.config.schema import NAME_RULE, BotConfig, Config, KvPolicyConfig, mail_problem, renamed
from services.store.bot_tests import BotTestStore
from services.store.knowledge import KnowledgeStore
from services.store.registry import Registry
from services.store.registry_edit import edit, read_registry, with_tenant

EXAMPLE = {
    "model": "smol",
    "system": "You answer questions about orders.",
    "kv": {"policy": "auto", "floor": 4, "ceiling": 8},
    "answer_tokens_max": 512,
}
BotName = Annotated[str, Path(pattern=NAME_RULE, examples=["support"])]

router = routes("bots")


@router.get("/bots")
async def index(host: Host, _: Viewer, tenant: Annotated[str | None, Query()] = None) -> Page[Bot]:
    """All bots, or one tenant's."""
    registry = await read_registry(host.connection)
    names = sorted(registry.tenants) if tenant is None else [tenant]
    return Page(
        items=[
            shown(name, bot, config)
            for name in names
            for bot, config in sorted(tenant_of(registry, name).config.bots.items())
        ]
    )


@router.get("/bots/{tenant}/{bot}")
async def show(tenant: str, bot: str, host: Host, _: Viewer) -> Bot:
    """One bot."""
    return shown(tenant, bot, bot_of(await read_registry(host.connection), tenant, bot))


@router.put("/bots/{tenant}/{bot}")
async def put(
    tenant: str,
    bot: BotName,
    config: Annotated[BotConfig, Body(examples=[EXAMPLE])],
    host: Host,
    actor: Operator,
) -> Bot:
    """Make a bot, or replace it."""
    check(host.config, config)

    def change(registry: Registry) -> tuple[Registry, Any]:
        before = tenant_of(registry, tenant).config.bots.get(bot)
        entry = note(
            host, actor, "bot.change" if before else "bot.create", f"{tenant}/{bot}", before=before, after=config
        )
        return with_bot(registry, tenant, bot, config), entry

    await edit(host.connection, change)
    return shown(tenant, bot, config)


@router.patch("/bots/{tenant}/{bot}")
async def patch(
    tenant: str,
    bot: str,
    changes: Annotated[dict[str, JsonValue], Body(examples=[{"system": "You answer briefly."}])],
    host: Host,
    actor: Operator,
) -> Bot:
    """Change a bot by a JSON merge patch (RFC 7396): members that are left out stay, null sets the default."""

    def change(registry: Registry) -> tuple[Registry, Any]:
        before = bot_of(registry, tenant, bot)
        after = _patched(before, changes)
        check(host.config, after)
        entry = note(host, actor, "bot.change", f"{tenant}/{bot}", before=before, after=after)
        return with_bot(registry, tenant, bot, after), entry

    registry = await edit(host.connection, change)
    return shown(tenant, bot, bot_of(registry, tenant, bot))


def _patched(before: BotConfig, changes: dict[str, JsonValue]) -> BotConfig:
    try:
        return BotConfig.model_validate(merged(before.model_dump(mode="json", exclude_defaults=True), renamed(changes)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{where}: {first['msg']}.", param=where) from None


@router.delete("/bots/{tenant}/{bot}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(tenant: str, bot: str, host: Host, actor: Operator) -> None:
    """Delete a bot."""

    def change(registry: Registry) -> tuple[Registry, Any]:
        before = bot_of(registry, tenant, bot)
        return with_bot(registry, tenant, bot, None), note(host, actor, "bot.delete", f"{tenant}/{bot}", before=before)

    await edit(host.connection, change)
    await KnowledgeStore(host.connection).clear(f"{tenant}/{bot}")
    await BotTestStore(host.connection).clear(f"{tenant}/{bot}")


def check(config: Config, bot: BotConfig) -> None:
    """Raises BadValue where the bot refers to something that this host has not, or its KV policy does not work."""
    model = config.models.get(bot.model)
    if model is None:
        raise BadValue(f"There is no model {bot.model!r}; there are {', '.join(config.models)}.", param="model")
    if bot.adapter is not None and bot.adapter not in model.adapters:
        raise BadValue(f"The model {bot.model} has no adapter {bot.adapter!r}.", param="adapter")
    if bot.overflow is not None and bot.overflow not in config.overflow:
        raise BadValue(f"{bot.overflow!r} is not under `overflow` in the configuration.", param="overflow")
    if bot.context_tokens is not None and bot.context_tokens > model.context_tokens:
        raise BadValue(
            f"context_tokens is {bot.context_tokens}, the model's are {model.context_tokens}.", param="context_tokens"
        )
    _refuse(bot.problem())
    if (why := mail_problem(bot, config)) is not None:
        _refuse(("handover_email", why), "widget.")
    if bot.knowledge is not None and not set(bot.knowledge.documents) <= _documents(config):
        raise BadValue(
            "Files of the host are named in its configuration alone. Upload documents to /knowledge.",
            param="knowledge.documents",
        )
    for name, action in bot.actions.items():
        _refuse(secret_problem(action, config.action_secrets) or action_problem(action), f"actions.{name}.")


def _documents(config: Config) -> set[FilePath]:
    """Files that the configuration lets bots read."""
    bots = (bot for tenant in config.tenants.values() for bot in tenant.bots.values())
    return {path for bot in bots if bot.knowledge for path in bot.knowledge.documents}


def check_policy(kv: KvPolicyConfig) -> None:
    """Raises BadValue for options that do not go together."""
    _refuse(kv.problem(), "kv.")


def _refuse(problem: tuple[str, str] | None, section: str = "") -> None:
    if problem is not None:
        option, why = problem
        raise BadValue(f"{section}{option}: {why}.", param=f"{section}{option}")


def with_bot(registry: Registry, tenant: str, name: str, bot: BotConfig | None) -> Registry:
    """The registry with one bot put in or taken out. Raises NotFound for an unknown tenant."""
    record = tenant_of(registry, tenant)
    bots = {known: config for known, config in record.config.bots.items() if known != name}
    if bot is not None:
        bots[name] = bot
    config = record.config.model_copy(update={"bots": bots})
    return with_tenant(registry, tenant, record.model_copy(update={"config": config}))


def shown(tenant: str, name: str, config: BotConfig) -> Bot:
    """As answers show it."""
    return Bot(id=f"{tenant}/{name}", tenant=tenant, name=name, config=config)
