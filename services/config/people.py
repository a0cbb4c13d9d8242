"""People behind a bot: when visitors are handed over to them, and when they are there."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from services.config.localized import LocalizedParagraph

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _check_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is not a time zone; write one such as Europe/Berlin")
    return name


def _minutes(value: object) -> object:
    """YAML reads a bare 17:00 as 1020, a number to the base of 60."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1440:
        return f"{value // 60:02d}:{value % 60:02d}"
    return value


TimeZone = Annotated[str, AfterValidator(_check_zone)]
TimeOfDay = Annotated[str, BeforeValidator(_minutes), Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class OfficeHours(BaseModel):
    """When people answer. `closes` before `opens`: they work over midnight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_zone: TimeZone = "UTC"
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri")
    opens: TimeOfDay = "09:00"
    closes: TimeOfDay = "17:00"
    away: LocalizedParagraph = "Nobody is here right now. Leave your e-mail address, and we will answer."

    def open_at(self, now_s: float) -> bool:
        """Whether people are there."""
        now = datetime.fromtimestamp(now_s, ZoneInfo(self.time_zone))
        opens, closes, clock = time.fromisoformat(self.opens), time.fromisoformat(self.closes), now.time()
        today, yesterday = DAYS[now.weekday()], DAYS[(now - timedelta(days=1)).weekday()]
        if opens < closes:
            return today in self.days and opens <= clock < closes
        return (today in self.days and clock >= opens) or (yesterday in self.days and clock < closes)

    def opened_s(self, now_s: float) -> float:
        """When people last came, while they are there. With hours that never end, up to a day ago."""
        now, opens = datetime.fromtimestamp(now_s, ZoneInfo(self.time_zone)), time.fromisoformat(self.opens)
        last = now.replace(hour=opens.hour, minute=opens.minute, second=0, microsecond=0, fold=0)
        return (last if last <= now else last - timedelta(days=1)).timestamp()


class PeopleConfig(BaseModel):
    """A bot with this section hands visitors over to the dashboard's inbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_request: bool = True  # a message such as "I want to talk to a human" hands over
    missed_max: int = Field(default=2, ge=0, le=20)  # so many unknown questions in a row hand over; 0: never
    words: tuple[Annotated[str, Field(min_length=2, max_length=120)], ...] = Field(default=(), max_length=50)
