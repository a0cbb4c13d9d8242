"""KV planes: 4- and 8-bit KV caches in stock SGLang 0.5.17, chosen per session and changed while it runs.

A distribution of its own, ``bunkhouse-kvplanes``: README.md says how to install it and switch it on. SGLang imports
these files as ``bunkhouse_kvplanes``, the host as ``services.kvplanes``; so they import each other relatively, and
nothing else of ``services``. The host needs ``layout``, ``keys``, ``config`` and ``control``, which import no torch.
"""
