"""Further admin keys, each with a role."""

from __future__ import annotations

from fastapi import status

from gateway.admin.auth import Owner, add_admin, drop_admin
from gateway.admin.common import Host, note, noted, routes
from gateway.admin.errors import Conflict
from gateway.admin.schemas import Admin, AdminNew, AdminShown, Page
from services.store.admin_keys import StoredAdmin, admin_keys

ADMINS_MAX = 100

router = routes("admins")


@router.get("/admins")
async def index(host: Host, _: Owner) -> Page[Admin]:
    """All admin keys but the owner's own, which is the host's."""
    return Page(items=[_shown(admin) for admin in await admin_keys(host.connection)])


@router.post("/admins", status_code=status.HTTP_201_CREATED)
async def create(new: AdminNew, host: Host, actor: Owner) -> AdminShown:
    """A new admin key. The key is shown only in this answer."""
    known = await admin_keys(host.connection)
    if len(known) >= ADMINS_MAX:
        raise Conflict(f"There are {ADMINS_MAX} admin keys. Revoke one first.", code="too_many")
    stored, key = await add_admin(host, new.name, new.role)
    await noted(host, note(host, actor, "admin.create", stored.id, after={"name": new.name, "role": new.role}))
    return AdminShown(**_shown(stored).model_dump(), key=key)


@router.delete("/admins/{admin}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(admin: str, host: Host, actor: Owner) -> None:
    """Revoke an admin key at once."""
    dropped = await drop_admin(host, admin)
    await noted(host, note(host, actor, "admin.delete", admin, before={"name": dropped.name, "role": dropped.role}))


def _shown(admin: StoredAdmin) -> Admin:
    return Admin(id=admin.id, name=admin.name, role=admin.role, created_s=admin.created_s)
