"""A trained model and its data, measured again: what an export is made of and held against."""

from __future__ import annotations

import io
import json
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from src import run_folder
from src.callbacks import Report
from src.cli import CLI, merged, pairs, quiet
from src.config import Config
from src.deploy import USUAL, proof
from src.deploy.measure import classes, measured
from src.errors import short
from src.models.model import Model
from src.tracking.git import git_state

# However the run was trained, its model is measured by one process, and exported, as it is.
PLAIN = """
model: {compile: false}
trainer: {accelerator: cpu, devices: 1, num_nodes: 1, strategy: auto, precision: 32-true,
  fast_dev_run: false, limit_val_batches: 1.0, limit_test_batches: 1.0}
"""
INPUT = "x"
ROWS_TO_CALIBRATE = 512


class Raw(nn.Module):
    """`(B, *in_shape)` raw rows -> logits and probabilities, or values in their own units."""

    def __init__(self, model: Model, num_outputs: int) -> None:
        super().__init__()
        self.model, self.num_outputs = model, num_outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out = self.model(x)
        return (out, self.model.scores(out))[-self.num_outputs :]


class Trained:
    """The model of a checkpoint, with its data.

    Args:
        path: The checkpoint.
        words: Flags that win over its config, where the data is now for one.
    """

    def __init__(self, path: Path, words: list[str]) -> None:
        checkpoint, config = run_folder.read_checkpoint(path), Config()
        config.add(checkpoint["config"], str(path))
        merged(config, [], [*pairs(words)])
        config.add(PLAIN, "")
        with TemporaryDirectory() as folder, quiet():
            cli = CLI("test", config.checked(), Path(folder), checkpoint)
            trainer, self.model, self.data = cli.trainer, cli.model, cli.datamodule
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = (c for c in callbacks if not isinstance(c, Report))
            what = {"datamodule": self.data, "ckpt_path": path, "verbose": False}
            self.data.prepare_data()
            self.data.setup("test")
            for split, measure in (("val", trainer.validate), ("test", trainer.test)):
                if len(getattr(self.data.split, split)):
                    measure(self.model, **what)
        if not self.model.results:
            raise ValueError("there are no test or val rows to prove it by: see `data.partition`")
        self.split = "test" if "test" in self.model.results else "val"
        self.model.eval().requires_grad_(False)
        signature, git = vars(self.data.signature), git_state().get("git")
        self.outputs = ["logits", "probabilities"] if signature["class_names"] else ["values"]
        self.raw = Raw(self.model, len(self.outputs)).eval()
        self.facts = json.loads(json.dumps({
            "name": path.absolute().parent.parent.name,
            "signature": signature,
            "statistics": vars(self.data.statistics),
            "fingerprint": self.data.split.report["fingerprint"],
            "rows": self.data.split.report["counts"],
            "metrics": {split: measured(self.model, split) for split in self.model.results},
            "classes": classes(self.model, self.split, self.data.signature.class_names),
            "example": as_json(self.rows(self.split)[0], signature),
            "outputs": self.outputs,
            "config": checkpoint["config"],
            "commit": f"{git['commit']}{'-dirty' * git['dirty']}" if git else "unknown",
            "versions": {name: version(name) for name in ("torch", "lightning", "onnx")},
        }))  # fmt: skip

    def rows(self, split: str) -> np.ndarray:
        """Raw rows of a split, `(N, *in_shape)`, in the order of its results."""
        return np.asarray(self.data.x[self.model.results[split][2].numpy()])

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of the model as it was trained."""
        with torch.inference_mode():
            return [out.numpy() for out in self.raw(torch.from_numpy(inputs[INPUT].copy()))]

    def weights(self) -> bytes:
        """The `state_dict` as safetensors."""
        from safetensors.torch import save

        state = {k: v.contiguous() for k, v in self.model.state_dict().items()}
        return bytes(save(state, {"signature": json.dumps(self.facts["signature"])}))

    def graph(self, opset: int) -> onnx.ModelProto:
        """The model as ONNX, by the exporter that knows this opset.

        Raises:
            ValueError: The net has something that this opset can't say.
        """
        x = torch.from_numpy(np.resize(rows := self.rows(self.split), (2, *rows.shape[1:])))
        how: dict[str, Any] = {"input_names": [INPUT], "output_names": self.outputs}
        how |= {"external_data": False, "verbose": False}
        file: Any = io.BytesIO()
        noise, logger = io.StringIO(), logging.getLogger("torch.onnx")
        logger.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
                warnings.simplefilter("ignore")
                if opset >= USUAL:  # the oldest that torch's newer exporter writes
                    how["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
                    program = torch.onnx.export(self.raw, (x,), opset_version=USUAL, **how)
                    assert program
                    return proof.converted(program.model_proto, opset)
                how["dynamic_axes"] = {name: {0: "batch"} for name in (INPUT, *self.outputs)}
                torch.onnx.export(self.raw, (x,), file, dynamo=False, opset_version=opset, **how)
                return onnx.load_from_string(file.getvalue())
        except Exception as error:  # a class of its own for each kind
            what = f"this model can't be written at opset {opset}"
            raise ValueError(f"{what}: {short(error, 150)}") from error

    def prove(self, content: bytes, opset: int, is_exact: bool) -> None:
        """Holds a file against the model, on real rows, at the ends of what is allowed, and whole.

        Args:
            content: The file.
            opset: The opset that it has.
            is_exact: Whether its outputs must be equal but for rounding.

        Raises:
            ValueError: It isn't the same.
        """
        run, real = proof.session(content), self.rows(self.split)[: sum(proof.SIZES)]
        real = np.resize(real, (sum(proof.SIZES), *real.shape[1:]))
        x = {INPUT: np.concatenate([real, proof.edges(self.facts)])}
        old = self.run if is_exact else run  # else: that it takes these rows, in any batch
        self.facts["proof"] = proof.compare(old, run, x, self.outputs, proof.SIZES)
        print(f"proof: opset {opset}; {self.facts['proof']}")
        for split in self.model.results:
            was, now = self.metrics(split), self.metrics(split, run)
            text = ", ".join(f"{split}/{name} {value:.6g}" for name, value in now.items())
            print(f"proof: {text} by the file")
            if is_exact and not np.allclose([*was.values()], [*now.values()], 1e-5, 1e-5):
                raise ValueError(f"by the checkpoint {split} has {was}: so nothing was written")
            self.facts["metrics"][split]["of the file"] = now

    def quantized(self, model: onnx.ModelProto, max_drop: float) -> onnx.ModelProto:
        """The model with weights and activations of 8 bits, if it is as good on the val rows.

        Args:
            model: Of opset 13 or newer.
            max_drop: What it may cost: val/acc, or the share by which val/rmse grows.

        Raises:
            ValueError: It costs more, or there are no val rows.
        """
        if "val" not in self.model.results:
            raise ValueError("`--quantize int8` is judged by val rows, and there are none")
        from onnxruntime.quantization import QuantType, quantize_static

        rows = np.random.default_rng(0).permutation(self.data.split.train)[:ROWS_TO_CALIBRATE]
        parts = ({INPUT: x} for x in np.array_split(np.asarray(self.data.x[np.sort(rows)]), 8))
        reader: Any = SimpleNamespace(get_next=lambda: next(parts, None))
        size = model.ByteSize()  # it is taken apart
        with TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            logging.disable(logging.WARNING)  # advice about files of other programs
            try:
                how = dict.fromkeys(("activation_type", "weight_type"), QuantType.QInt8)
                how |= {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"], "per_channel": True}
                quantize_static(model, path, reader, **how)
            finally:
                logging.disable(logging.NOTSET)
            smaller = onnx.load(path)
        run = proof.session(smaller.SerializeToString())
        was, now = self.metrics("val"), self.metrics("val", run)
        name = "acc" if "acc" in was else "rmse"
        drop = was["acc"] - now["acc"] if name == "acc" else now["rmse"] / was["rmse"] - 1
        sizes = f"{size:,} bytes become {smaller.ByteSize():,}"
        numbers = f"val/{name} {was[name]:.5g} becomes {now[name]:.5g}; {sizes}"
        if not drop <= max_drop:
            raise ValueError(f"int8 costs {drop:.3g}, more than --max_drop {max_drop:g}: {numbers}")
        print(f"int8: {numbers}")
        self.facts["int8"] = numbers
        return smaller

    def scores(self, run: proof.Run, split: str) -> Tensor:
        """What a file makes of every row of a split."""
        return torch.from_numpy(proof.in_batches(run, {INPUT: self.rows(split)}, 1024)[-1])

    def metrics(self, split: str, run: proof.Run | None = None) -> dict[str, float]:
        """Those that have a value by the checkpoint, of it or of a file."""
        known, y = self.facts["metrics"][split]["values"], self.model.results[split][1]
        if run is None:
            return {name: value for name, (value, *_) in known.items()}
        assert y is not None
        found = self.model.metrics(self.scores(run, split), y)
        return {name: found[name].item() for name in known}


def as_json(row: np.ndarray, signature: dict[str, Any]) -> Any:
    """A row as JSON, which a server reads as that row: by name where features have names."""
    if row.dtype == np.uint8:
        return row.tolist()
    values = [None if v != v else float(str(v)) for v in row.flat]  # 0.1, not 0.10000000149
    if not signature["feature_names"]:
        return np.array(values, object).reshape(row.shape).tolist()
    named: dict[str, Any] = dict(zip(signature["feature_names"], values, strict=True))
    coded = signature["categories"].items()
    return named | {k: [None, *values][int(named[k] or 0)] for k, values in coded}
