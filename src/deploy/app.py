"""The process that answers requests, with FastAPI. It imports no torch."""

import asyncio
import hmac
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.deploy.rows import fitting, shown
from src.deploy.served import JSON, Served
from src.deploy.server import NUM_SLOTS, SLOT_BYTES, TOKEN, is_local
from src.errors import report

MAX_HEAD = 2**16  # bytes of a request besides its body
MAX_BODY = 4 * 2**20  # bytes of a request
MAX_HELD = 64 * 2**20  # bytes of all bodies, until they have been answered
MAX_REQUESTS, MAX_CONNECTIONS = 256, 2048  # at a time
SLOW_S = 10  # a client may take for its headers, for its body, and to read the answer
DRAIN_S = 30  # an old worker waits for its clients
OPEN = ("/", "/healthz", "/readyz")  # without a token
LOCAL = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)
BUSY, CLOSE = {"retry-after": "1"}, {"connection": "close"}
HEADERS = {
    b"content-security-policy": b"default-src 'none'; connect-src 'self'; img-src data: blob:; "
    b"frame-ancestors 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
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
        is_local: Only this machine can ask, by a name of its own: a page of the internet could
            have another name that leads here.
    """

    def __init__(
        self, served: Served, counts: np.ndarray, slot: int, token: str, is_local: bool = False
    ) -> None:
        self.served, self.mine = served, counts[slot]
        self.secret = f"Bearer {token}".encode() if token else b""
        self.needs_local = is_local and not token
        self.num_requests = self.held = 0
        self.is_leaving = False
        self.app = application(served, counts, self.mine, bool(token))

    def _check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self.needs_local and not LOCAL.fullmatch(host):
            raise HTTPException(400, f"Host is {shown(host)}, not localhost: others need a token")
        if path == "/readyz" and self.is_leaving:
            raise HTTPException(503, "leaving", BUSY)
        if path not in OPEN:
            given, how = headers.get(b"authorization", b""), {"www-authenticate": "Bearer"}
            if self.secret and not hmac.compare_digest(given, self.secret):
                raise HTTPException(401, "say Authorization: Bearer TOKEN", how)
            if self.num_requests > MAX_REQUESTS:
                raise HTTPException(503, "too many requests at once", BUSY)
        if (method, path) == ("POST", "/predict"):
            kind = (headers.get(b"content-type") or b"missing").decode("latin-1")
            is_other = kind.partition(";")[0].strip().lower() not in self.served.kinds
            if is_other or b"content-encoding" in headers:
                cure = f"send {' or '.join(self.served.kinds)}, not compressed"
                raise HTTPException(415, f"Content-Type is {kind[:60]}: {cure}")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        began, size, path = time.perf_counter(), 0, scope["path"]
        until = asyncio.get_running_loop().time() + SLOW_S

        async def hear() -> Any:
            nonlocal size
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"no body within {SLOW_S} s", CLOSE) from None
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the client has left", CLOSE)
            length = len(message.get("body", b""))
            size, self.held = size + length, self.held + length
            if size > MAX_BODY:
                raise HTTPException(413, f"more than {MAX_BODY:,} bytes", CLOSE)
            if self.held > MAX_HELD:
                raise HTTPException(503, "too much to read", BUSY | CLOSE)
            return message

        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.num_requests -= 1
                self.mine[CODES.index(message["status"])] += 1
                if path == "/predict":
                    seconds = time.perf_counter() - began
                    self.mine[len(CODES) + bisect_left(TIMES, seconds)] += 1
                    self.mine[SECONDS] += seconds
                leaving = [(b"connection", b"close")] * self.is_leaving
                message["headers"] = [*message["headers"], *HEADERS.items(), *leaving]
            await send(message)

        self.num_requests += 1
        try:
            self._check(scope["method"], path, dict(reversed(scope["headers"])))
            await self.app(scope, hear, tell)
        except HTTPException as error:
            await refusal(error)(scope, hear, tell)
        except Exception:  # that the app has answered
            traceback.print_exc()
        finally:
            self.held -= size


def refusal(error: HTTPException, line: str = "") -> JSONResponse:
    """The answer to a request that gets no other."""
    return JSONResponse({"error": line or error.detail}, error.status_code, error.headers)


def application(served: Served, counts: np.ndarray, mine: np.ndarray, is_closed: bool) -> FastAPI:
    """The routes, and their description in OpenAPI, by the signature of the model."""

    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        paths = ", ".join([*app.openapi()["paths"], "/openapi.json"])
        return refusal(error, f"there are: {paths}" if error.status_code == 404 else "")

    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        return refusal(HTTPException(500, "our fault"))

    said = {"schema": fitting("Refusal", {"error": str}).model_json_schema()}
    said = {"description": "In one line, why there is no other answer", "content": {JSON: said}}
    app = FastAPI(
        title=served.facts["name"], version=served.version, docs_url=None, redoc_url=None,
        redirect_slashes=False, responses={"default": said},
        exception_handlers={HTTPException: refuse, Exception: our_fault},
    )  # fmt: skip
    locked = [Depends(HTTPBearer(auto_error=False))] * is_closed
    schema = served.reader.model.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    file = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    rows = {JSON: {"schema": schema, "example": served.example}}
    body = {"requestBody": {"required": True, "content": dict.fromkeys(served.kinds, file) | rows}}

    @app.post("/predict", response_model=served.answers, dependencies=locked, openapi_extra=body)
    async def predict(request: Request) -> Any:
        """The predictions for rows, by name or as lists, or images."""
        body, kind = await request.body(), request.headers["content-type"]
        rows = [body] if kind.strip().lower().startswith("image/") else served.reader.read(body)
        mine[ROWS] += len(rows)
        return Response(json.dumps(await served.answer(rows)), media_type=JSON)

    @app.get("/", response_class=HTMLResponse)
    async def form() -> str:
        """A page to try the model by hand."""
        return Path(__file__).with_name("page.html").read_text("utf-8")

    @app.get("/healthz", response_class=PlainTextResponse)
    @app.get("/readyz", response_class=PlainTextResponse)
    async def ok() -> str:
        """Whether it answers, and whether it takes more requests."""
        return "ok"

    @app.get("/metrics", dependencies=locked, response_class=PlainTextResponse)
    async def metrics() -> str:
        """What was counted, for Prometheus."""
        return prometheus(counts, served.version)

    @app.get("/signature", dependencies=locked)
    async def signature() -> dict[str, Any]:
        """What the model takes and gives, and what is known of it."""
        return served.facts

    app.openapi()["components"]["schemas"] |= parts
    return app


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
        sock = socket.socket(fileno=listener)
        door = Door(served, table, slot, os.environ.get(TOKEN, ""), is_local(sock))
    except Exception as error:
        return report(error, debug=False)
    with socket.socket(fileno=line) as near:
        Server(door, near).run([sock])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
