"""What only this host knows: the pepper of its keys, the salt of its caches, its passwords.

Made at the first start in `data_dir/secrets.json` (mode 0600) and read ever after; every process of a host reads the
same file. BUNKHOUSE_SECRETS_FILE names another one, for example a container's secret; it must exist then.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.config.api_keys import new_key

FILE_ENV = "BUNKHOUSE_SECRETS_FILE"
NEW_ENV = "BUNKHOUSE_NEW_SECRETS"
FILE_NAME = "secrets.json"
REDIS_DATA = Path("redis", "appendonlydir")  # what the embedded server keeps in a data folder
_BYTES = 32


class SecretsError(Exception):
    """The host's secrets cannot be read or written. The message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The host's own secrets. `repr` shows none of them."""

    pepper: bytes = field(repr=False)  # keys a digest of each API key
    salt: bytes = field(repr=False)  # keys each tenant's prefix-cache salt
    redis_password: str = field(repr=False)
    admin_key: str = field(repr=False)


def secrets_path(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The file that holds a host's secrets."""
    return Path(environ.get(FILE_ENV) or data_dir.absolute() / FILE_NAME)


def load_secrets(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Secrets:
    """The secrets of the host with this data folder; generated at its first start. Raises SecretsError."""
    path = secrets_path(data_dir, environ)
    if not path.exists() and not environ.get(FILE_ENV):
        _refuse_beside_data(data_dir, path, environ)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # conversations lie there, too
            write_secrets(path)
        except FileExistsError:
            pass  # another process of this host was first
        except OSError as error:
            raise SecretsError(f"{path}: cannot be written: {error.strerror}") from error
    return read_secrets(path)


def _refuse_beside_data(data_dir: Path, path: Path, environ: Mapping[str, str]) -> None:
    """New secrets would silently void the keys of every tenant in that data."""
    if any((data_dir / REDIS_DATA).glob("*")) and environ.get(NEW_ENV) != "yes":
        raise SecretsError(
            f"{path} is missing, but {data_dir / REDIS_DATA} holds tenants and API keys that need it. Restore it from "
            f"a backup. {NEW_ENV}=yes makes new secrets; then every API key made so far stops working."
        )


def read_secrets(path: Path) -> Secrets:
    """Read one file. Raises SecretsError."""
    try:
        stored = json.loads(path.read_text())
    except OSError as error:
        raise SecretsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _broken(path, "is no JSON") from error
    try:
        found = Secrets(
            pepper=bytes.fromhex(stored["pepper"]),
            salt=bytes.fromhex(stored["salt"]),
            redis_password=str(stored["redis_password"]),
            admin_key=str(stored["admin_key"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"lacks a usable value ({type(error).__name__}: {error})") from error
    if len(found.pepper) < _BYTES or len(found.salt) < _BYTES:
        raise _broken(path, f"has a pepper or salt under {_BYTES} bytes")
    return found


def write_secrets(path: Path) -> None:
    """Fresh secrets in a new file of mode 0600, whole or not at all. Raises FileExistsError, OSError."""
    fresh = {
        "pepper": secrets.token_hex(_BYTES),
        "salt": secrets.token_hex(_BYTES),
        "redis_password": secrets.token_urlsafe(_BYTES),
        "admin_key": new_key(),
    }
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".secrets-")  # mkstemp: O_EXCL and 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(fresh, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # unlike a rename, it fails where the file already is
    finally:
        os.unlink(name)


def _broken(path: Path, what: str) -> SecretsError:
    return SecretsError(
        f"{path} {what}. Restore it from a backup; deleting it makes new secrets, and every API key made so far "
        "stops working."
    )
