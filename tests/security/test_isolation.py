"""One tenant sees nothing of another's: not in a cache, a reply, a session, an id or an error."""

from __future__ import annotations

import uuid

import pytest

from tests.security.conftest import BOTS, BRIEF, Hosted


def _cached(hosted: Hosted, tenant: str, text: str) -> int:
    answer = hosted.ask(tenant, text)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_prefix_is_found_by_its_own_tenant_only(hosted: Hosted) -> None:
    """Both ways: the same salt hits, another one misses, and the miss spoils nothing for the owner."""
    text = f"{uuid.uuid4()} is the order that I ask about. " + "It came late and broken. " * 20
    assert _cached(hosted, "acme", text) < 60, "only the system prompt may be known"
    assert _cached(hosted, "acme", text) > 100
    assert _cached(hosted, "globex", text) < 60
    assert _cached(hosted, "globex", text) > 100
    assert _cached(hosted, "acme", text) > 100


@pytest.mark.parametrize("path", ["/v1/chats/{}", "/v1/chats/{}/stream"])
def test_a_reply_is_its_tenants(hosted: Hosted, path: str) -> None:
    chat = hosted.ask("acme", "Hello").headers["x-bunkhouse-chat"]
    assert hosted.get("acme", path.format(chat)).status_code == 200
    foreign = hosted.get("globex", path.format(chat))
    unknown = hosted.get("globex", path.format("chatcmpl-" + "x" * 32))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json(), "an error must not tell that the chat exists"
    assert hosted.http.get(path.format(chat)).status_code == 401


def test_chat_ids_cannot_be_guessed(hosted: Hosted) -> None:
    ids = {hosted.ask("acme", "Hi", max_tokens=1).headers["x-bunkhouse-chat"] for _ in range(4)}
    assert len(ids) == 4
    assert all(len(chat.removeprefix("chatcmpl-")) == 32 for chat in ids), "192 bits in base64"
    prefixes = {chat.removeprefix("chatcmpl-")[:6] for chat in ids}
    assert len(prefixes) == 4


def test_sessions_and_idempotency_keys_of_one_name_are_two(hosted: Hosted) -> None:
    name = uuid.uuid4().hex
    headers = {"Idempotency-Key": name, "X-Bunkhouse-Session": name}
    chats = {tenant: hosted.ask(tenant, "Hello", headers).headers["x-bunkhouse-chat"] for tenant in BOTS}
    assert chats["acme"] != chats["globex"]
    for tenant, chat in chats.items():
        assert hosted.ask(tenant, "Hello", headers).headers["x-bunkhouse-chat"] == chat
        seen = hosted.get(tenant, f"/v1/chats/{chat}").json()
        assert (seen["session"], seen["model"]) == (name, BOTS[tenant])


def test_an_idempotency_key_answers_no_other_question(hosted: Hosted) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    assert hosted.ask("acme", "Hello", headers).status_code == 200
    other = hosted.ask("acme", "Hello, this is quite another question.", headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_models_and_errors_name_no_other_tenant(hosted: Hosted) -> None:
    assert [model["id"] for model in hosted.get("acme", "/v1/models").json()["data"]] == [BRIEF, BOTS["acme"]]
    for name in (BOTS["globex"], "globex/nobody", "nobody/nobody"):
        refused = hosted.ask("acme", "Hello", model=name)
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == (
            f"The model {name!r} does not exist for this key. GET /v1/models lists those that do."
        )
        assert hosted.get("acme", f"/v1/models/{name}").status_code == 404


def test_usage_is_counted_for_the_tenant_that_asked(hosted: Hosted) -> None:
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}

    def chats(tenant: str) -> int:
        answer = hosted.http.get("/admin/v1/usage", headers=admin, params={"tenant": tenant})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["total"]["chats"])

    before = {tenant: chats(tenant) for tenant in BOTS}
    assert hosted.ask("acme", "Hello").status_code == 200
    assert (chats("acme"), chats("globex")) == (before["acme"] + 1, before["globex"])
    for tenant in BOTS:
        assert hosted.get(tenant, "/admin/v1/usage").status_code == 401
