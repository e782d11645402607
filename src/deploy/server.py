"""Answers HTTP requests with an exported model. This process holds the socket, others answer."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from src.deploy import Parser

TOKEN = "FULGURITE_TOKEN"
NAMES = "fastapi", "httptools", "numpy", "onnxruntime", "uvicorn"
NEEDS = {name: name for name in NAMES} | {"PIL": "pillow"}
START_S, STOP_S, TICK_S = 60, 10, 0.1
NUM_SLOTS, SLOT_BYTES = 64, 512  # of what the workers count, which outlives them
Workers = dict[subprocess.Popen, socket.socket]  # a process answers until its socket is closed


def main(argv: list[str]) -> None:
    """Runs `python -m src serve`.

    Raises:
        ValueError: An option is wrong, the export is damaged, or the model can't be loaded.
    """
    parser = Parser("python -m src serve", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="an export: RUN/export")
    add("--host", default="127.0.0.1", help="the address to listen at [127.0.0.1]")
    add("--port", type=int, default=8000, help="0 for any that is free [8000]")
    add("--workers", type=int, default=1, metavar="N", help="processes that answer [1]")
    add("--insecure", action="store_true", help=f"listen to other machines without {TOKEN}")
    parser.epilog = (
        f"With a text in the variable {TOKEN}, requests must say: Authorization: Bearer TEXT."
    )
    args = parser.parse_args(argv)
    if os.name == "nt":
        raise ValueError("serve needs Linux or macOS: run it in WSL or a container")
    if args.workers < 1 or not 0 <= args.port < 65536:
        raise ValueError("serve: --workers is 1 or more, --port 0 to 65535")
    if missing := [name for name in NEEDS if not find_spec(name)]:
        needs = f"pip install {' '.join(NEEDS.values())}  (the extra `serve`)"
        raise ValueError(f"serve needs {', '.join(missing)}: {needs}")
    verified(args.model)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        door = socket.create_server((args.host, args.port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise ValueError(f"--host {args.host} --port {args.port}: {why}") from None
    with tempfile.TemporaryFile() as counts, door as listener:
        if not (is_local(listener) or os.environ.get(TOKEN) or args.insecure):
            what = f"{listener.getsockname()[0]} is open to other machines"
            raise ValueError(f"{what}: set {TOKEN} to a secret text, or give --insecure")
        counts.truncate(NUM_SLOTS * SLOT_BYTES)
        Parent(args.model, args.workers, listener, counts.fileno()).run()


def is_local(listener: socket.socket) -> bool:
    """Whether it listens to this machine alone."""
    address: str = listener.getsockname()[0]
    return address.startswith("127.") or address == "::1"


def verified(folder: Path) -> dict[str, bytes]:
    """The files of an export by name, whose checksums match.

    Raises:
        ValueError: One doesn't, or is missing.
    """
    files = {}
    try:
        for line in (folder / "SHA256SUMS").read_text("ascii").splitlines():
            digest, _, name = line.partition("  ")
            files[name] = (folder / Path(name).name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise ValueError(f"{folder / name} is not as it was exported: export it again")
    except FileNotFoundError as error:
        inside = folder / "export"
        cure = f": give {inside}" if inside.is_dir() else ": write one with export"
        raise ValueError(
            f"{folder} is no whole export, {error.filename} is missing{cure}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} is no whole export: {error}") from error
    if not {"model.onnx", "signature.json"} <= files.keys():
        raise ValueError(f"{folder} holds no model.onnx with its signature.json: export one")
    return files


@dataclass
class Parent:
    """Starts workers, and new ones in their place: for a new export, at SIGHUP, when one dies.

    Args:
        folder: The export, which is watched.
        num_workers: Processes that answer.
        listener: The socket that they share.
        counts: File of what they count, each in a slot.
    """

    folder: Path
    num_workers: int
    listener: socket.socket
    counts: int
    slot = 0

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C."""
        heard = set[int]()
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: heard.add(number))
        seen = stamp = self._stamp()
        leaving, workers = Workers(), self._start(self.num_workers)
        host, port = self.listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"serving {self.folder} at http://{host}:{port}", flush=True)
        while heard <= {signal.SIGHUP}:
            time.sleep(TICK_S)
            leaving, alive = living(leaving), living(workers)
            last, stamp = stamp, self._stamp()
            is_new = stamp and seen != stamp == last  # it is no longer being written
            try:
                if signal.SIGHUP in heard or is_new:
                    seen = stamp
                    heard.discard(signal.SIGHUP)
                    old, workers = workers, self._start(self.num_workers)
                    for line in old.values():
                        line.close()
                    leaving |= old
                    print(f"serving {self.folder} anew", flush=True)
                elif len(alive) < len(workers):
                    workers = alive | self._start(len(workers) - len(alive))
            except (ValueError, OSError) as error:
                print(f"error: {error}; going on as before", file=sys.stderr, flush=True)
                time.sleep(1)
        self._stop(workers | leaving)

    def _stamp(self) -> list[tuple[str, int, int]]:
        """Changes with the export; empty while there is none."""
        try:
            found = ((path.name, path.stat()) for path in sorted(self.folder.iterdir()))
            return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]
        except OSError:
            return []

    def _start(self, count: int) -> Workers:
        """Starts workers and waits until each is ready.

        Raises:
            ValueError: One isn't; it has said why. None is left.
        """
        started = Workers()
        for _ in range(count):
            line, far = socket.socketpair()
            self.slot = (self.slot + 1) % NUM_SLOTS
            fds = (self.listener.fileno(), far.fileno(), self.counts)
            words = [sys.executable, "-m", "src.deploy.app", str(self.folder), *map(str, fds)]
            with far:
                started[subprocess.Popen([*words, str(self.slot)], pass_fds=fds)] = line
        for line in started.values():
            if not select.select([line], [], [], START_S)[0] or not line.recv(1):
                self._stop(started)
                raise ValueError("a worker did not start")
        return started

    def _stop(self, workers: Workers) -> None:
        for process in workers:
            process.terminate()
        until = time.monotonic() + STOP_S
        for process, line in workers.items():
            try:
                process.wait(max(0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
            line.close()


def living(workers: Workers) -> Workers:
    """Those that haven't ended."""
    return {process: line for process, line in workers.items() if process.poll() is None}
