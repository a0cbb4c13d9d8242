"""Who asks, what the host looks like now, and why a chat waits."""

from __future__ import annotations

import asyncio

from gateway.admin.auth import Actor, Viewer
from gateway.admin.catalog import models
from gateway.admin.common import Host, routes
from gateway.admin.schemas import HostDevice, Me, Overview
from services.contracts.explanation import Explanation
from services.devices.card import devices
from services.planner.plan_inputs import card_of
from services.store.explanations import explain
from services.store.mps_states import read_mps_states

router = routes("scheduler")
explain_router = routes("scheduler")


@router.get("/me")
async def me(actor: Viewer) -> Me:
    """Whose key this is."""
    return _me(actor)


@router.get("/overview")
async def overview(host: Host, _: Viewer) -> Overview:
    """Engines, ledger and queues: what a memory map needs."""
    found = await models(host)
    used = devices(host.config, {model.name: model.device for model in found})
    cards = await asyncio.to_thread(lambda: {device: card_of(host.config, device, used) for device in used})
    mps = await read_mps_states(host.connection)
    return Overview(
        at_s=host.clock(),
        snapshot=await host.submissions.snapshot(),
        models=found,
        devices=[
            HostDevice(
                id=name,
                total_bytes=card.total_bytes if card else None,
                reserve_bytes=int(card.total_bytes * host.config.memory.reserve) if card else None,
                sharing_why=mps[name].why_not if name in mps else "",
            )
            for name, card in cards.items()
        ],
    )


@explain_router.get("/scheduler/explain/{chat}")
async def explained(chat: str, host: Host, _: Viewer) -> Explanation:
    """Why a chat waits, runs, ended or was refused, in words and numbers. A chat that nobody knows is `unknown`."""
    return await explain(host.connection, chat)


def _me(actor: Actor) -> Me:
    return Me(name=actor.name, role=actor.role)
