"""What is kept of a visitor's conversation."""

from __future__ import annotations

from services.store.connection import connect
from services.store.conversations import ConversationStore

SESSION = "s" * 32
BEFORE = b"""{"session": "%s", "bot": "acme/help", "began_s": 1.0, "handed_over_s": null, "turns": [
    {"who": "visitor", "text": "Hi", "at_s": 1.0, "chat": null, "finish": null},
    {"who": "bot", "text": "Hello", "at_s": 2.0, "chat": "c1", "finish": "stop"}]}"""


async def test_a_conversation_of_an_earlier_version_is_still_read(redis_url: str) -> None:
    async with connect(redis_url) as connection:
        await connection.redis.set(f"bh:widget:talk:{SESSION}", BEFORE % SESSION.encode())
        found = await ConversationStore(connection).read("acme/help", SESSION)
    assert found is not None
    assert found.state == "bot"
    assert found.turns[1].text == "Hello"
    assert found.turns[1].sources == ()
