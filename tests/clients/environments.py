"""The environments that clients run in: one each, or one for a few whose versions go together, outside the checkout.

A lock file's digest is part of its folder's name, so a new lock makes a new environment and old checkouts keep theirs.
`python -m tests.clients.environments lock` writes the lock files anew from what stands beside them as `.in`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = Path(__file__).parent / "environments"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bunkhouse"
HOST = "host"  # the host's own .venv, which has openai-python
SGLANG = "sglang"
LITELLM = "litellm"
NODE = "node"
MADE_BY_MAKE = {SGLANG: CACHE / "sglang-0.5.17", LITELLM: CACHE / "litellm"}
SGLANG_WEIGHTS = CACHE / "smollm2-135m-2"
FREE_GB_MIN = {"open-webui": 2}
# vLLM is 800 MB, of which its bench client is one file that stands alone.
VLLM, VLLM_WHEEL = "vllm-bench", "vllm==0.33.0"
VLLM_FILE = "vllm/benchmarks/lib/endpoint_request_func.py"


def folder(name: str) -> Path:
    """Where an environment is, or will be."""
    if name in MADE_BY_MAKE:
        return MADE_BY_MAKE[name]
    stamp = _lock(name).read_bytes() + (VLLM_WHEEL.encode() if name == VLLM else b"")
    digest = hashlib.sha256(stamp).hexdigest()[:8]
    return CACHE / "clients" / f"{name}-{digest}"


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return Path(sys.executable) if name == HOST else folder(name) / "bin" / "python"


def installed(name: str) -> bool:
    """Whether its clients can run."""
    return name == HOST or ((folder(name) / ".installed").exists() and (name != VLLM or vllm_file().exists()))


def install(name: str) -> None:
    """Make an environment if it is missing. CalledProcessError when a registry fails."""
    if installed(name):
        return
    if name in MADE_BY_MAKE:
        _run("make", "--no-print-directory", f"{name}-env")
    elif name == NODE:
        _install_node()
    else:
        _run(ROOT / "scripts/tool-env", folder(name), FREE_GB_MIN.get(name, 1), "-", "--no-deps", "-r", _lock(name))
        if name == VLLM:
            _add_vllm_file()


def install_sglang_weights() -> None:
    """The model for SGLang, made once from the GGUF file that the host's own environment has."""
    _run("make", "--no-print-directory", SGLANG_WEIGHTS / "config.json")


def _lock(name: str) -> Path:
    return LOCKS / "node" / "package-lock.json" if name == NODE else LOCKS / f"{name}.lock"


def _install_node() -> None:
    target = folder(NODE)
    target.mkdir(parents=True, exist_ok=True)
    for file in (LOCKS / "node").iterdir():
        shutil.copy(file, target)
    _run("npm", "ci", "--prefix", target, "--no-audit", "--no-fund", "--loglevel=error")
    (target / ".installed").touch()


def vllm_file() -> Path:
    """vLLM's bench client, as its wheel has it."""
    return folder(VLLM) / VLLM_FILE


def _add_vllm_file() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        _run(python(VLLM), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, VLLM_WHEEL)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(VLLM_FILE, folder(VLLM))


def lock() -> None:
    """Write the lock files anew, and the versions that they pin."""
    uv = Path(sys.executable).with_name("uv")
    for source in LOCKS.glob("*.in"):
        without = source.with_suffix(".without")
        override = ("--override", without) if without.exists() else ()
        options = ("--quiet", "--upgrade", "--no-annotate", "--no-header", "-o", source.with_suffix(".lock"))
        _run(uv, "pip", "compile", source, *options, *override)
    _run("npm", "install", "--prefix", LOCKS / "node", "--package-lock-only", "--omit-lockfile-registry-resolved")


def _run(*command: object) -> None:
    subprocess.run([str(each) for each in command], cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    lock()
