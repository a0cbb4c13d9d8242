"""`python -m gateway CONFIG`"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from services.config.host_secrets import SecretsError
from services.config.schema import Config, ConfigError, load


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m gateway CONFIG\n")
        return 2
    try:
        path = Path(sys.argv[1])
        share_metrics(load(path))
        from gateway.main import serve  # noqa: PLC0415  (prometheus_client looks at the environment when imported)

        serve(path)
    except (ConfigError, SecretsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def share_metrics(config: Config) -> None:
    """Name the folder that several gateway processes keep their counters in (gateway.metrics)."""
    if config.gateway.processes > 1:
        folder = config.data_dir.absolute() / "metrics"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(folder))


if __name__ == "__main__":
    sys.exit(main())
