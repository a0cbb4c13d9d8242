"""Run by `services.process.children.mortal`: `python -I -S die_with_parent.py PARENT_PID SIGNAL PROGRAM [ARGUMENT...]`.

Asks the kernel to send SIGNAL when the parent dies, then becomes PROGRAM. A program of its own rather
than a `preexec_fn`, because Python code between fork and exec may deadlock where threads run.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, death_signal: int, argv: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the request above was in force
        sys.exit(1)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  (the caller names the program)
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
