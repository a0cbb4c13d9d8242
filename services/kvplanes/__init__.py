"""KV planes: 4- and 8-bit KV caches in stock SGLang 0.5.17, chosen per session and changed while it runs.

Switch it on for a SGLang process with an environment variable and one flag:

    BUNKHOUSE_KVPLANES='{"bits": 8, "recent_tokens": 32, "control": "/run/kvplanes.sock"}'
    --attention-backend triton --cuda-graph-backend-prefill=disabled        on an NVIDIA GPU
    --attention-backend torch_native --disable-cuda-graph                   on a CPU

``environment.plugin_environment`` builds the variables, PYTHONPATH with the entry point included. A request's precision
arrives in ``extra_key`` (``keys.extra_key``); ``control.ControlClient`` demotes, promotes and reports;
``layout.bytes_per_token`` counts memory. These four modules, and ``config``, import no torch. docs/kvplanes.md explains
the rest.
"""
