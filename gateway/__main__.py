"""`python -m gateway CONFIG`"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.main import serve
from services.config import ConfigError
from services.secrets import SecretsError


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m gateway CONFIG\n")
        return 2
    try:
        serve(Path(sys.argv[1]))
    except (ConfigError, SecretsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
