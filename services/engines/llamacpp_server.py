"""The llama.cpp server as a process: `python -m services.engines.llamacpp_server '{"path": ...}'`.

Runs until SIGTERM. Prints a line that starts with `LISTENING` once it serves; exits with a line that says
why when it cannot. Parameters are one JSON object, see `ServerParameters`. The key that clients must send
comes in the environment, where other users of the machine cannot read it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import dataclass

_WARNINGS = 2  # one level up, the log grows by six lines a chat
LISTENING = "bunkhouse-llamacpp listening on "
LOADING = "bunkhouse-llamacpp loading weights"
KEY_VARIABLE = "BUNKHOUSE_ENGINE_KEY"


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """What the adapter sets; everything else is llama.cpp's default or pinned in `build`."""

    path: str
    context_tokens: int  # of one slot
    slots: int
    kv_type: str  # ggml type name: "F16" | "Q8_0" | "Q4_0"
    port: int = 0  # 0: any free one
    threads: int = 0  # 0: llama.cpp's choice
    gpu_layers: int = -1  # -1: all that fit
    batch_tokens: int = 512  # prompt tokens of one step; also bounds how long a prefill delays decoding


def serve(parameters: ServerParameters) -> None:
    """Blocks until SIGTERM or SIGINT."""
    import xllamacpp  # noqa: PLC0415  (a large native library; only this process loads it)

    p = xllamacpp.CommonParams()
    p.model.path = parameters.path
    p.hostnames = ["127.0.0.1"]
    p.port = parameters.port
    p.n_parallel = parameters.slots
    p.n_ctx = parameters.context_tokens * parameters.slots
    kv_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{parameters.kv_type}")
    p.cache_type_k = p.cache_type_v = kv_type
    # A quantized V cache exists with flash attention only; the same kernel at 16 bits keeps answers comparable.
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    p.n_gpu_layers = parameters.gpu_layers
    p.n_batch = p.n_ubatch = parameters.batch_tokens
    if parameters.threads:
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = parameters.threads
    # Each slot owns its cells, and no prompt is kept where the adapter does not see it: the adapter alone
    # decides which chat may reuse which slot's prefix.
    p.kv_unified = False
    p.cache_ram_mib = 0
    p.cache_idle_slots = False
    p.n_ctx_checkpoints = 0
    p.slot_prompt_similarity = 0.0
    p.fit_params = False  # would shrink the context silently where memory is short
    p.ctx_shift = False  # would drop the oldest tokens silently where the context is full
    p.endpoint_metrics = p.endpoint_slots = True
    p.ui = False
    p.api_keys = [os.environ[KEY_VARIABLE]]
    p.cors_origins = ""  # no web page has business here
    p.verbosity = _WARNINGS
    print(LOADING, flush=True)  # noqa: T201  (the log is stdout; the adapter reads both lines)
    server = xllamacpp.Server(p)
    print(LISTENING + server.listening_address, flush=True)  # noqa: T201
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def main(argument: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    parameters = ServerParameters(**json.loads(argument))
    try:
        _check_port(parameters.port)
        serve(parameters)
    except OSError as error:
        sys.exit(f"port {parameters.port} of 127.0.0.1 cannot be used: {error.strerror}")
    except RuntimeError as error:
        sys.exit(f"llama.cpp did not start: {error}")
    # The library's threads do not all end on their own; its files and memory go with the process.
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def _check_port(port: int) -> None:
    """llama.cpp loads the whole model before it finds a port taken, and then does not say so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


if __name__ == "__main__":
    main(sys.argv[1])
