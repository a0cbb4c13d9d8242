"""`nvidia-cuda-mps-control` for machines without a GPU, as far as the host sees it.

    -f            the daemon: sockets in $CUDA_MPS_PIPE_DIRECTORY, a server process once a client comes
    (stdin)       get_server_list, get_client_list PID, quit
    server PIPE   the server: clients hold a connection to it, and end when it breaks

`join` is what CUDA does in a client: it connects to the daemon, which starts the server, then to the server, and the
process ends with CUDA's words when the server is gone. `install` writes both programs and a `sitecustomize` by which
every llama.cpp server of the host joins, and the host takes it for a program of a GPU.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

CONTROL, SERVER = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
ENGINE = "services.engines.llamacpp_server"
SITE = """\
import sys
sys.path.append({root!r})
if {engine!r} in sys.orig_argv:
    from tests.mps.stand_in import join
    join()
else:
    from tests.mps.pretend_gpu import pretend
    pretend()
"""


def listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(64)
    return made


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    return made


def ask(pipe: Path, command: str) -> str:
    with connected(pipe / "control") as control:
        control.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: control.recv(4096), b"")).decode()


def serve(pipe: Path) -> None:
    """The server: who is connected is a client."""
    clients: dict[int, socket.socket] = {}
    (pipe / "server.pid").write_text(str(os.getpid()))
    accept = listener(pipe / "server")

    def keep(client: socket.socket) -> None:
        pid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        if client.recv(1) == b"l":
            client.sendall("".join(f"{each}\n" for each in sorted(clients)).encode())
            client.close()
            return
        clients[pid] = client
        client.sendall(b"k")
        client.recv(1)
        del clients[pid]

    while True:
        threading.Thread(target=keep, args=(accept.accept()[0],), daemon=True).start()


class Daemon:
    """Answers at `control`; starts the server when the first client asks for it."""

    def __init__(self, pipe: Path) -> None:
        self.pipe = pipe
        self.server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        if os.environ.get("BUNKHOUSE_TEST_MPS_FAILS"):
            sys.exit("An instance of this daemon is already running")
        accept = listener(self.pipe / "control")
        while True:
            client, _ = accept.accept()
            with client:
                command = client.makefile().readline().split()
                client.sendall(self.answer(command).encode())
            if command == ["quit"]:
                return

    def answer(self, command: list[str]) -> str:
        alive = self.server is not None and self.server.poll() is None
        if command == ["start_server"] and not alive:
            (self.pipe / "server").unlink(missing_ok=True)
            program = Path(sys.argv[0]).with_name(SERVER)
            self.server = subprocess.Popen([program, self.pipe], start_new_session=True)
            while not (self.pipe / "server").exists():
                time.sleep(0.01)
        elif command == ["get_server_list"] and alive and self.server is not None:
            return f"{self.server.pid}\n"
        elif command[:1] == ["get_client_list"]:
            if not alive:
                return f"Server {command[1]} not found\n"
            with connected(self.pipe / "server") as server:
                server.sendall(b"l")
                return b"".join(iter(lambda: server.recv(4096), b"")).decode()
        elif command == ["quit"] and self.server is not None:
            self.server.kill()
        return ""


def join() -> None:
    """In a CUDA program: join where there is a daemon, else run without."""
    pipe = Path(os.environ.get(PIPE_VARIABLE, ""))
    try:
        ask(pipe, "start_server")
        server = connected(pipe / "server")
    except OSError:
        return
    server.sendall(b"c")
    server.recv(1)

    def end() -> None:
        server.recv(1)
        sys.stderr.write("CUDA error: the remote procedural call between the MPS server and the MPS client failed\n")
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def install(folder: Path) -> dict[str, str]:
    """Both programs, and the environment in which a host finds them."""
    for name in (CONTROL, SERVER):
        program = folder / name
        program.write_text(f"#!{sys.executable} -P\n{Path(__file__).read_text()}")
        program.chmod(0o755)
    (folder / "sitecustomize.py").write_text(SITE.format(engine=ENGINE, root=str(Path(__file__).parents[2])))
    path = os.pathsep.join(part for part in (str(folder), os.environ.get("PYTHONPATH", "")) if part)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": path}


def main() -> None:
    if Path(sys.argv[0]).name == SERVER:
        serve(Path(sys.argv[1]))
        return
    pipe = Path(os.environ[PIPE_VARIABLE])
    if "-f" in sys.argv:
        Daemon(pipe).run()
        return
    for line in sys.stdin:
        try:
            print(ask(pipe, line.strip()), end="")
        except OSError:
            sys.exit("Cannot find MPS control daemon process")


if __name__ == "__main__":
    main()
