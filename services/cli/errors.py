"""Error messages and exit codes.

0  success, also of a host that was asked to stop
1  failure: the message says what failed and why
2  the command line or the configuration is wrong
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from services.config.host_secrets import SecretsError
from services.config.schema import ConfigError
from services.host.claims import AlreadyClaimed
from services.host.host import HostFailed
from services.model_files.weights import WeightsError
from services.store.connection import QueueUnavailable

FAILED = 1
WRONG_INPUT = 2

out = Console()
err = Console(stderr=True)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Known errors leave this block as a message on stderr and an exit code; unknown ones keep their traceback."""
    try:
        yield
    except (ConfigError, SecretsError, WeightsError) as error:
        fail(str(error), WRONG_INPUT)
    except (AlreadyClaimed, HostFailed, QueueUnavailable) as error:
        fail(str(error), FAILED)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print the message and end the command. Raises typer.Exit."""
    err.print(Text("error: ", "bold red") + Text(message), soft_wrap=True)
    raise typer.Exit(code)
