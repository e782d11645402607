"""The process that answers requests, in ASGI. It imports no torch."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import socket
import sys
import time
import traceback
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.deploy.served import JSON, Refused, Served
from src.deploy.server import NUM_SLOTS, SLOT_BYTES, TOKEN
from src.errors import report

MAX_HEAD = 2**16  # bytes of a request besides its body
MAX_BODY = 4 * 2**20  # bytes of a request
MAX_HELD = 64 * 2**20  # bytes of all bodies, until they have been answered
LARGE = 2**16  # bytes of a body that is read beside the answers to others
MAX_REQUESTS, MAX_CONNECTIONS = 256, 2048  # at a time
SLOW_S = 10  # a client may take for its headers, for its body, and to read the answer
DRAIN_S = 30  # an old worker waits for its clients
PATHS = ("/", "/healthz", "/readyz", "/metrics", "/signature", "/openapi.json")
ROUTES = {"/predict": "POST", **dict.fromkeys(PATHS, "GET")}
OPEN = ("/", "/healthz", "/readyz")  # without a token
HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src data: blob:; "
    "frame-ancestors 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
CODES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 500, 503)
TIMES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 10)  # s, upper ends
# What is counted: answers by code, those of `/predict` by time, then these.
ROWS, SECONDS = range(len(CODES) + len(TIMES) + 1, len(CODES) + len(TIMES) + 3)


class Door:
    """What every request passes: the token, the limits, what is counted.

    Args:
        served: The model.
        counts: `(NUM_SLOTS, ...)` what all workers counted.
        slot: Which row of it is this worker's.
        token: What requests must show, if not empty.
    """

    def __init__(self, served: Served, counts: np.ndarray, slot: int, token: str) -> None:
        self.served, self.counts, self.mine = served, counts, counts[slot]
        self.secret = f"Bearer {token}".encode() if token else b""
        self.num_requests = self.held = 0
        self.is_leaving = False
        self.thread = ThreadPoolExecutor(1)
        page, ok = Path(__file__).with_name("page.html").read_text("utf-8"), ("text/plain", "ok")
        self.texts = {
            "/": ("text/html; charset=utf-8", page),
            "/healthz": ok,
            "/readyz": ok,
            "/signature": (JSON, json.dumps(served.facts)),
            "/openapi.json": (JSON, json.dumps(openapi(served))),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        began, code, more = time.perf_counter(), 200, {}
        self.num_requests += 1
        try:
            kind, text = await self._answer(scope, receive)
        except Refused as refused:
            code, more, kind = refused.code, refused.headers, JSON
            text = json.dumps({"error": refused.line})
        except Exception:
            traceback.print_exc()
            code, kind, text = 500, JSON, json.dumps({"error": "our fault"})
        self.num_requests -= 1
        body = text.encode()
        if self.is_leaving:
            more["connection"] = "close"
        told = {"content-type": kind, "content-length": str(len(body)), **HEADERS, **more}
        headers = [(k.replace("_", "-").encode(), v.encode()) for k, v in told.items()]
        self.mine[CODES.index(code)] += 1
        if scope["path"] == "/predict":
            seconds = time.perf_counter() - began
            self.mine[len(CODES) + bisect_left(TIMES, seconds)] += 1
            self.mine[SECONDS] += seconds
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Any, receive: Any) -> tuple[str, str]:
        """Content type and text of the answer to a request."""
        path, headers = scope["path"], dict(scope["headers"])
        if path not in OPEN:
            shown = headers.get(b"authorization", b"")
            if self.secret and not hmac.compare_digest(shown, self.secret):
                raise Refused(401, "say Authorization: Bearer TOKEN", www_authenticate="Bearer")
            if self.num_requests > MAX_REQUESTS:
                raise Refused(503, "too many requests at once", retry_after="1")
        if path not in ROUTES:
            raise Refused(404, f"there are: {', '.join(ROUTES)}")
        if scope["method"] != ROUTES[path]:
            raise Refused(405, f"{path} takes {ROUTES[path]}", allow=ROUTES[path])
        if path == "/predict":
            return JSON, json.dumps(await self._predict(headers, receive))
        if path == "/readyz" and self.is_leaving:
            raise Refused(503, "leaving", retry_after="1")
        if path == "/metrics":
            return "text/plain; version=0.0.4", prometheus(self.counts, self.served.version)
        return self.texts[path]

    async def _predict(self, headers: dict[bytes, bytes], receive: Any) -> dict[str, Any]:
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if kind not in self.served.kinds or b"content-encoding" in headers:
            raise Refused(415, f"send {' or '.join(self.served.kinds)}, not compressed")
        body, more, read = bytearray(), True, self.served.read
        try:
            async with asyncio.timeout(SLOW_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the client left")
                    body += (chunk := message.get("body", b""))
                    self.held, more = self.held + len(chunk), message.get("more_body", False)
                    if len(body) > MAX_BODY:
                        raise Refused(413, f"more than {MAX_BODY:,} bytes", connection="close")
                    if self.held > MAX_HELD:
                        raise Refused(503, "too much to read", retry_after="1", connection="close")
            if len(body) < LARGE and kind == JSON:
                x = read(kind, bytes(body))
            else:
                loop = asyncio.get_running_loop()
                x = await loop.run_in_executor(self.thread, read, kind, bytes(body))
            self.mine[ROWS] += len(x)
            return await self.served.answer(x)
        except TimeoutError:
            raise Refused(408, f"no body within {SLOW_S} s", connection="close") from None
        finally:
            self.held -= len(body)


def openapi(served: Served) -> dict[str, Any]:
    """The description of all routes in OpenAPI 3.1, with a row that is real."""
    rows = {"type": "array", "items": served.reader.schema(), "minItems": 1}
    body: dict[str, Any] = {
        "type": "object",
        "properties": {"rows": rows | {"maxItems": served.max_rows}},
    }
    body = {"required": ["rows"], "additionalProperties": False, **body}
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    content: dict[str, Any] = dict.fromkeys(served.kinds, binary)
    content[JSON] = {"schema": body, "example": served.example}
    codes = {str(code): {"description": "`error`, one line"} for code in CODES[1:]}
    codes["200"] = {"description": "as asked"}
    paths: dict[str, Any] = {p: {m.lower(): {"responses": codes}} for p, m in ROUTES.items()}
    paths["/predict"]["post"] |= {"security": [{"token": []}, {}]}
    paths["/predict"]["post"] |= {"requestBody": {"required": True, "content": content}}
    components = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    info = {"title": served.facts["name"], "version": served.version}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def prometheus(counts: np.ndarray, version: str) -> str:
    """What all workers counted, in the text format of Prometheus."""
    sums, name, total = counts.sum(0).tolist(), "fulgurite", 0.0
    lines = [f"# TYPE {name}_requests_total counter"]
    lines += [f'{name}_requests_total{{code="{c}"}} {sums[i]:.0f}' for i, c in enumerate(CODES)]
    lines += [f"# TYPE {name}_seconds histogram", f"{name}_seconds_sum {sums[SECONDS]:.6f}"]
    for i, end in enumerate((*TIMES, "+Inf"), len(CODES)):
        total += sums[i]
        lines.append(f'{name}_seconds_bucket{{le="{end}"}} {total:.0f}')
    lines += [f"{name}_seconds_count {total:.0f}"]
    lines += [f"# TYPE {name}_rows_total counter", f"{name}_rows_total {sums[ROWS]:.0f}"]
    info = f"{name}_model_info{{version={json.dumps(version)}}} 1"
    return "\n".join([*lines, f"# TYPE {name}_model_info gauge", info, ""])


class Patient(HttpToolsProtocol):
    """A connection that ends once its client has let it wait for `SLOW_S`, for a request or for
    room to write in, and that takes `MAX_HEAD` bytes besides a body."""

    timer: Any = None
    size = 0  # bytes of the request, without its body

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # what isn't sent yet pauses writing
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def _wait(self) -> None:
        self.timer = self.timer or self.loop.call_later(SLOW_S, self.transport.abort)

    def _go_on(self) -> None:
        self.timer = self.timer and self.timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        self.size += len(data)
        super().data_received(data)
        if self.size > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"more than {MAX_HEAD:,} bytes besides the body")
        if self.cycle and not self.cycle.response_complete and not self.flow.write_paused:
            self._go_on()

    def on_body(self, body: bytes) -> None:
        self.size -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.size = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """Says that it is ready, and leaves without losing a request once the line is closed."""

    def __init__(self, door: Door, line: socket.socket) -> None:
        how: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None}
        how |= {"access_log": False, "server_header": False, "log_level": "error"}
        super().__init__(uvicorn.Config(door, http=Patient, **how))
        self.door, self.line = door, line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self.line, self._leave)
        self.line.send(b"1")

    def _leave(self) -> None:
        asyncio.get_running_loop().remove_reader(self.line)
        self.door.is_leaving = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, and waits until those that are there have been answered."""
        until = time.monotonic() + DRAIN_S * self.door.is_leaving
        for server in self.servers:
            server.close()
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def main(argv: list[str]) -> int:
    """Serves until the parent closes the line, dies, or says SIGTERM."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listener, line, counts, slot = map(int, argv[1:])
    try:
        served = Served(Path(argv[0]))
        with os.fdopen(counts, "r+b") as file:
            table = np.memmap(file, np.float64, "r+", shape=(NUM_SLOTS, SLOT_BYTES // 8))
        door = Door(served, table, slot, os.environ.get(TOKEN, ""))
    except Exception as error:
        return report(error, debug=False)
    with socket.socket(fileno=line) as near:
        Server(door, near).run([socket.socket(fileno=listener)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
