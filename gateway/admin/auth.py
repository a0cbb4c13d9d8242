"""Admin keys: who presents one, and what that one may do.

The owner's key is the host's own (services/config/host_secrets.py). Further ones are stored as digests in Redis and
looked up at each request, so that a revoked one stops working at once. They are named
`bh-admin-...`; a tenant's key is none.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.admin.errors import Forbidden, NotFound, Unauthorized
from gateway.admin.schemas import Role
from gateway.state import Gateway
from services.config.api_keys import ADMIN_PREFIX, digest
from services.store.admin_keys import StoredAdmin, admin_keys, drop_admin_key, keep_admin_key
from services.store.registry import Keyring

GATEWAY = "bunkhouse.gateway"  # in the request's scope, as is its id
REQUEST = "bunkhouse.request"
RANKS: dict[Role, int] = {"viewer": 0, "operator": 1, "owner": 2}
OWNER = "owner"

bearer = HTTPBearer(auto_error=False, scheme_name="admin key", description="An admin key of this host.")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `request` is the x-request-id, for the audit log."""

    name: str
    role: Role
    request: str = ""


async def identify(gateway: Gateway, key: str) -> Actor:
    """Whose admin key this is. Raises Unauthorized, QueueUnavailable."""
    pepper = gateway.secrets.pepper
    presented = digest(key, pepper)
    if hmac.compare_digest(presented, digest(gateway.secrets.admin_key, pepper)):
        return Actor(OWNER, "owner")
    for admin in await admin_keys(gateway.connection):
        if hmac.compare_digest(presented, admin.digest):
            return Actor(admin.name, admin.role)
    if Keyring(gateway.directory.registry, pepper).tenant_of(key, gateway.clock()) is not None:
        raise Unauthorized("This is a tenant's API key, for /v1. The admin API needs an admin key.")
    raise Unauthorized("This admin key is not valid.")


def may(role: Role) -> Any:
    """A dependency: the actor, if its role is at least `role`. Raises Unauthorized, Forbidden."""

    async def checked(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Actor:
        if credentials is None or not credentials.credentials:
            raise Unauthorized("No admin key given. Send `Authorization: Bearer <admin key>`.")
        actor = await identify(request.scope[GATEWAY], credentials.credentials)
        if RANKS[actor.role] < RANKS[role]:
            raise Forbidden(f"This needs the role {role}; the key {actor.name!r} is a {actor.role}'s.")
        return Actor(actor.name, actor.role, request.scope.get(REQUEST, ""))

    return Depends(checked)


Viewer = Annotated[Actor, may("viewer")]
Operator = Annotated[Actor, may("operator")]
Owner = Annotated[Actor, may("owner")]


async def add_admin(gateway: Gateway, name: str, role: Role) -> tuple[StoredAdmin, str]:
    """A new admin key: as stored, and itself. Raises QueueUnavailable."""
    key = ADMIN_PREFIX + secrets.token_urlsafe(32)
    stored = StoredAdmin(
        f"admin-{secrets.token_hex(4)}", name, role, digest(key, gateway.secrets.pepper), gateway.clock()
    )
    await keep_admin_key(gateway.connection, stored)
    return stored, key


async def drop_admin(gateway: Gateway, admin_id: str) -> StoredAdmin:
    """Revoke an admin key at once. Raises NotFound, QueueUnavailable."""
    found = next((admin for admin in await admin_keys(gateway.connection) if admin.id == admin_id), None)
    if found is None:
        raise NotFound(f"There is no admin key {admin_id!r}.")
    await drop_admin_key(gateway.connection, admin_id)
    return found
