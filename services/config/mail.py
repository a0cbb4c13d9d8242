"""The mail server through which handovers are announced, and the mailbox whose replies come back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.config.urls import is_loopback

ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
REPLIES_CHARS_MAX = 12  # before its @: the host adds 51 characters, and a mail server takes 64


def _check_address(text: str) -> str:
    if not ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is no e-mail address: write desk@shop.example, without a name or a +")
    return text


MailAddress = Annotated[str, AfterValidator(_check_address)]


class MailConfig(BaseModel):
    """The operator's mail server. Bots name a receiver (`handover_email`), never a server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(default=587, ge=1, le=65_535)
    security: Literal["starttls", "tls", "none"] = "starttls"  # none: for a server on this machine
    username: str | None = None
    password_file: Path | None = None  # its first line
    sender: MailAddress
    replies_to: MailAddress | None = None  # a mailbox that posts what it gets to /widget/v1/mail-replies/KEY

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.security == "none" and not is_loopback(self.host):
            raise ValueError("security: none is for a mail server on this machine; passwords would travel in the clear")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        if self.replies_to is not None and len(self.replies_to.partition("@")[0]) > REPLIES_CHARS_MAX:
            raise ValueError(
                f"replies_to: at most {REPLIES_CHARS_MAX} characters before the @, since the host adds to it"
            )
        return self

    def password(self) -> str | None:
        """Raises OSError."""
        return None if self.password_file is None else self.password_file.read_text().split("\n", 1)[0].strip()
