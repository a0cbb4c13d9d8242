"""Run by an engine's own interpreter, `PYTHON bandwidth_probe.py INDEX`: prints how fast its GPU moves memory.

One JSON object: the GPU's name, and bytes a second read and written by device-to-device copies, the median of several.
Imports torch and nothing of the host, since engines live in environments of their own.
"""

from __future__ import annotations

import json
import statistics
import sys

import torch

COPY_BYTES = 1 << 29
COPIES = 12


def main() -> None:
    """Fails with torch's own error where there is no GPU, or not 1 GiB free."""
    torch.cuda.set_device(int(sys.argv[1]))
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    speeds = []
    for _ in range(COPIES):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        speeds.append(2 * COPY_BYTES / (begin.elapsed_time(end) / 1000))
    print(json.dumps({"name": torch.cuda.get_device_name(), "bytes_per_s": statistics.median(speeds)}))  # noqa: T201


if __name__ == "__main__":
    main()
