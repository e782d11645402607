"""A model in ONNX Runtime: reads the rows of requests, and runs all that wait in one batch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from src.deploy.rows import MAX_PIXELS, Reader, parse
from src.deploy.server import verified

MAX_ROWS, MAX_VALUES, MAX_SCORES = 1024, 2**21, 2**17  # of a request, and of a batch
JSON, IMAGES = "application/json", ("image/png", "image/jpeg")


class Refused(Exception):
    """A request that gets no answer but a line, with a code of HTTP and headers."""

    def __init__(self, code: int, line: str, **headers: str) -> None:
        self.code, self.line, self.headers = code, line, headers


class Served:
    """What an export gives to those who ask.

    Args:
        folder: The export.
    """

    def __init__(self, folder: Path) -> None:
        files = verified(folder)
        facts = json.loads(files["signature.json"])
        self.version = f"{facts['name']}-{hashlib.sha256(files['model.onnx']).hexdigest()[:12]}"
        self.facts = {key: facts[key] for key in facts if key != "config"} | {"model": self.version}
        self.reader, signature = Reader(facts["signature"]), facts["signature"]
        self.kinds = (JSON, *IMAGES) if self.reader.takes_images else (JSON,)
        self.names = signature["class_names"] or signature["target_names"]
        self.is_classifier = bool(signature["class_names"])
        few = MAX_VALUES // math.prod(self.reader.shape), MAX_SCORES // len(self.names)
        self.max_rows = max(1, min(MAX_ROWS, *few))
        options, cpu = ort.SessionOptions(), ["CPUExecutionProvider"]
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = ort.InferenceSession(files["model.onnx"], options, providers=cpu)
        self.example = {"rows": [facts["example"]]}
        self._run(self.read(JSON, json.dumps(self.example).encode()))  # the first run is slow
        self.waiting: list[tuple[np.ndarray, asyncio.Future]] = []
        self.task: asyncio.Task | None = None
        self.thread = ThreadPoolExecutor(1)

    def read(self, kind: str, body: bytes) -> np.ndarray:
        """The rows of a request, `(N, *in_shape)`.

        Raises:
            Refused: They can't be read.
        """
        try:
            if kind != JSON:
                return self.reader.image(body, "the body", MAX_PIXELS)[None]
            given = parse(body)
        except ValueError as error:
            raise Refused(400 if kind == JSON else 422, str(error)) from error
        rows = given.get("rows") if isinstance(given, dict) else None
        if not isinstance(rows, list) or not 1 <= len(rows) <= self.max_rows or len(given) > 1:
            what = f"an object of one field, `rows`, a list of 1 to {self.max_rows} rows"
            raise Refused(422, f"the body is not {what}")
        try:
            room = MAX_PIXELS // len(rows)
            return np.stack([self.reader.row(r, f"rows[{i}]", room) for i, r in enumerate(rows)])
        except ValueError as error:
            raise Refused(422, str(error)) from error

    async def answer(self, x: np.ndarray) -> dict[str, Any]:
        """Predictions for rows.

        Raises:
            Refused: One has none that is finite.
        """
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((x, future))
        self.task = self.task or asyncio.create_task(self._run_waiting())
        out: np.ndarray = await future
        if not (finite := np.isfinite(out).all(1)).all():
            i = finite.argmin()
            raise Refused(422, f"rows[{i}] has no finite prediction: is a value in it huge?")
        rows: list[Any] = [dict(zip(self.names, row, strict=True)) for row in out.tolist()]
        if self.is_classifier:
            rows = [{"class": max(row, key=row.get), "probabilities": row} for row in rows]
        return {"predictions": rows, "model": self.version}

    def _run(self, x: np.ndarray) -> np.ndarray:
        out: np.ndarray = self.session.run(None, {"x": x})[-1]
        return out

    async def _run_waiting(self) -> None:
        """Runs until nobody waits; whoever comes meanwhile is in the next batch."""
        loop = asyncio.get_running_loop()
        while self.waiting:
            count = size = 0
            while count < len(self.waiting) and size + len(self.waiting[count][0]) <= self.max_rows:
                count, size = count + 1, size + len(self.waiting[count][0])
            batch, self.waiting = self.waiting[:count], self.waiting[count:]
            try:
                x = np.concatenate([rows for rows, _ in batch])
                out = await loop.run_in_executor(self.thread, self._run, x)
                ends = np.cumsum([len(rows) for rows, _ in batch])[:-1]
                for (_, future), part in zip(batch, np.split(out, ends), strict=True):
                    future.set_result(part)
            except Exception as error:  # whoever waits must hear of it
                for _, future in batch:
                    future.set_exception(error)
        self.task = None
