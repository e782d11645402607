"""A model in ONNX Runtime: runs the rows of all requests that wait in one batch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from starlette.exceptions import HTTPException

from src.deploy.rows import Reader, fitting
from src.deploy.server import verified

MAX_ROWS, MAX_VALUES, MAX_SCORES = 1024, 2**21, 2**17  # of a request, and of a batch
QUICK_S = 5e-4  # a batch that is done sooner isn't worth a thread; as long as `num_quick` rows
JSON, IMAGES = "application/json", ("image/png", "image/jpeg")


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
        signature = facts["signature"]
        self.names = signature["class_names"] or signature["target_names"]
        self.is_classifier = bool(signature["class_names"])
        few = MAX_VALUES // math.prod(signature["in_shape"]), MAX_SCORES // len(self.names)
        self.max_rows = max(1, min(MAX_ROWS, *few))
        self.reader = Reader(signature, self.max_rows)
        self.kinds = (JSON, *IMAGES) if self.reader.takes_images else (JSON,)
        kinds = {"class": Literal[*self.names], "probabilities": dict[str, float]}
        row: Any = fitting("Prediction", kinds) if self.is_classifier else dict[str, float]
        self.answers = fitting("Answer", {"predictions": list[row], "model": str})
        options, cpu = ort.SessionOptions(), ["CPUExecutionProvider"]
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = ort.InferenceSession(files["model.onnx"], options, providers=cpu)
        self.example = {"rows": [facts["example"]]}
        x = self.reader.array(self.reader.read(json.dumps(self.example).encode()))
        self.num_quick = QUICK_S / min(timeit.repeat(lambda: self._run(x), number=1, repeat=4))
        self.waiting: list[tuple[np.ndarray, asyncio.Future]] = []
        self.task: asyncio.Task | None = None
        self.thread, self.eyes = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    async def answer(self, rows: list[Any]) -> dict[str, Any]:
        """Predictions for rows that fit.

        Raises:
            HTTPException: An image can't be read, or a row has no prediction that is finite.
        """
        loop = asyncio.get_running_loop()
        if any(isinstance(row, bytes) for row in rows):
            x = await loop.run_in_executor(self.eyes, self.reader.array, rows)
        else:
            x = self.reader.array(rows)
        future = loop.create_future()
        self.waiting.append((x, future))
        self.task = self.task or asyncio.create_task(self._run_waiting())
        out: np.ndarray = await future
        if not (finite := np.isfinite(out)).all():
            i = finite.all(1).argmin()
            raise HTTPException(422, f"rows[{i}] has no finite prediction: is a value huge?")
        found: list[Any] = [dict(zip(self.names, row, strict=True)) for row in out.tolist()]
        if self.is_classifier:
            found = [{"class": max(row, key=row.get), "probabilities": row} for row in found]
        return {"predictions": found, "model": self.version}

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
                x = np.concatenate([rows for rows, _ in batch]) if count > 1 else batch[0][0]
                if size <= self.num_quick:
                    out = self._run(x)
                else:
                    out = await loop.run_in_executor(self.thread, self._run, x)
                for rows, future in batch:
                    future.set_result(out[: len(rows)])
                    out = out[len(rows) :]
            except Exception as error:  # whoever waits must hear of it
                for _, future in batch:
                    future.set_exception(error)
        self.task = None
