"""Public tokens: one for each bot that has a widget. They are no secret; origins and rates bound what they can do."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from services.config.schema import BotConfig, WidgetConfig
from services.store.registry import Registry

PREFIX = "bhw-"


@dataclass(frozen=True, slots=True)
class WidgetSite:
    """A bot as its widget sees it."""

    token: str
    tenant: str
    bot: str  # "tenant/bot"
    config: BotConfig
    widget: WidgetConfig


def token_of(bot: str, number: int, pepper: bytes) -> str:
    """The token of `tenant/bot`: 128 bits, the same at every start of the same host."""
    mac = hmac.new(pepper, f"widget {number} of {bot}".encode(), hashlib.sha256)
    return PREFIX + mac.hexdigest()[:32]


def webhook_secret(bot: str, pepper: bytes) -> str:
    """What `tenant/bot`'s webhooks are signed with; its operator gives it to the receiver."""
    return hmac.new(pepper, f"handover of {bot}".encode(), hashlib.sha256).hexdigest()


class WidgetSites:
    """All widgets of one registry version."""

    def __init__(self, registry: Registry, pepper: bytes) -> None:
        self.version = registry.version
        self._sites: dict[str, WidgetSite] = {}
        for tenant, record in registry.tenants.items():
            for name, config in record.config.bots.items():
                if config.widget is not None:
                    bot = f"{tenant}/{name}"
                    token = token_of(bot, config.widget.token_number, pepper)
                    self._sites[token] = WidgetSite(token, tenant, bot, config, config.widget)

    def site(self, token: str) -> WidgetSite | None:
        """The bot behind a token, or None."""
        return self._sites.get(token)

    def all(self) -> list[WidgetSite]:
        """Every widget, by bot."""
        return sorted(self._sites.values(), key=lambda site: site.bot)

    def demo(self) -> WidgetSite | None:
        """The first bot that may be tried on this host's demo page."""
        return next((site for site in self._sites.values() if site.widget.demo), None)
