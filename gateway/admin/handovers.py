"""Handovers to people that could not be delivered: kept, listed, and sent again."""

from __future__ import annotations

from fastapi import status

from gateway.admin.auth import Operator, Viewer
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.errors import Conflict, NotFound
from gateway.admin.schemas import HandoverFailed, Page
from services.store.deliveries import DeliveryStore
from services.store.registry_edit import read_registry

router = routes("handovers")


@router.get("/handovers/failed")
async def failed(host: Host, _: Viewer) -> Page[HandoverFailed]:
    """Handovers that were given up, newest first. They are kept for 30 days."""
    found = await DeliveryStore(host.connection).failed()
    return Page(
        items=[
            HandoverFailed(id=each.id, bot=each.bot, failed_s=each.failed_s, why=each.why, tries=each.tries + 1)
            for each in found
        ]
    )


@router.post("/handovers/{handover}/resend", status_code=status.HTTP_202_ACCEPTED)
async def resend(handover: str, host: Host, actor: Operator) -> None:
    """Send a failed handover again, to its bot's present webhook or address."""
    store = DeliveryStore(host.connection)
    delivery = next((each for each in await store.failed() if each.id == handover), None)
    if delivery is None:
        raise NotFound(f"There is no failed handover {handover!r}.", param="handover")
    tenant, _, bot = delivery.bot.partition("/")
    widget = bot_of(await read_registry(host.connection), tenant, bot).widget
    name = f"handover_{delivery.kind}"
    url = getattr(widget, name, None)
    if url is None:
        raise Conflict(f"{delivery.bot} has no {name}.", code="no_webhook")
    await store.resend(delivery, url, host.clock())
    await noted(host, note(host, actor, "handover.resend", handover, after={"bot": delivery.bot}))
