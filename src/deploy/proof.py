"""That an ONNX file says what it should: its form, its opset, and its outputs next to others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, version_converter

from src.errors import short

NEWEST = onnx.defs.onnx_opset_version()
SIZES: tuple[int, ...] = (1, 2, 17, 128)  # of batches
BOUND = 1e-5  # of a probability; of another output, of its spread and its distance from the middle
Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], list[np.ndarray]]


def labelled(model: onnx.ModelProto, opset: int, facts: dict[str, Any]) -> bytes:
    """The file of a model, with all that is known of it inside, in a form that is valid.

    Raises:
        ValueError: It isn't valid, or not of that opset and no other.
    """
    for node in model.graph.node:  # what torch noted of the code that it came from
        del node.metadata_props[:]
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)  # for older runtimes
    if facts:
        facts["opset"] = opset
        helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    try:
        onnx.checker.check_model(model, full_check=True)
        content = bytes(model.SerializeToString())
    except Exception as error:  # not valid, or over 2 GB
        raise ValueError(f"opset {opset}: no valid file: {plainly(error)}") from error
    found = {(o.domain or "ai.onnx", o.version) for o in model.opset_import}
    if found != {("ai.onnx", opset)}:
        raise ValueError(f"opset {opset} was asked for, and this can only be written as {found}")
    return content


def session(content: bytes) -> Run:
    """Runs a file in ONNX Runtime.

    Raises:
        ValueError: ONNX Runtime doesn't take it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        made = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each kind
        why = short(str(error).rpartition(" : ")[2], 150)
        raise ValueError(f"ONNX Runtime {ort.__version__} takes no such file: {why}") from error
    return lambda inputs: made.run(None, inputs)


def edges(facts: dict[str, Any]) -> np.ndarray:
    """Rows at the ends of what is allowed, `(N, *in_shape)`: 0 and 255, or the mean, values far
    from it, missing ones, and codes that there are not."""
    shape, dtype = tuple(facts["signature"]["in_shape"]), facts["signature"]["dtype"]
    if dtype == "uint8":
        return np.stack([np.zeros(shape, dtype), np.full(shape, 255, dtype)])
    features = (shape[0],) + (1,) * (len(shape) - 1)
    mean, std = (np.reshape(facts["statistics"][key], features) for key in ("mean", "std"))
    nans = np.where(np.arange(shape[0]).reshape(features) % 2, np.nan, mean)
    rows = [mean, mean + 3 * std, mean - 3 * std, mean + 1000 * std, nans, mean + np.nan]
    return np.stack([np.broadcast_to(row, shape) for row in rows]).astype(dtype)


def in_batches(run: Run, x: Inputs, size: int) -> list[np.ndarray]:
    """The outputs of all rows."""
    starts = range(0, len(next(iter(x.values()))), size)
    outs = (run({name: rows[i : i + size] for name, rows in x.items()}) for i in starts)
    return [np.concatenate(parts) for parts in zip(*outs, strict=True)]


@np.errstate(invalid="ignore")  # inf - inf
def compare(old: Run, new: Run, x: Inputs, names: list[str], sizes: tuple[int, ...]) -> str:
    """Holds two against each other on rows, in batches of each of the sizes; says how they differ.

    Raises:
        ValueError: They do by more than rounding.
    """
    num_rows, worst = len(next(iter(x.values()))), dict.fromkeys(names, 0.0)
    for size in sizes:
        a_and_b = (in_batches(run, x, size) for run in (old, new))
        for name, a, b in zip(names, *a_and_b, strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise ValueError(f"`{name}` is {b.dtype} {b.shape}, not {a.dtype} {a.shape}")
            off = np.where((a == b) | np.isnan(a) & np.isnan(b), 0, np.abs(a - b))
            far = np.abs(a - np.nanmedian(a))
            allowed = BOUND * (np.nanmedian(far) + far + np.abs(a) / 10)
            worst[name] = max(worst[name], float(off.max()))
            if not (off <= (BOUND if name == "probabilities" else allowed)).all():
                what = f"`{name}` differs by {off.max():.2g} in batches of {size}"
                raise ValueError(f"{what}: more than rounding, so nothing was written")
    text = ", ".join(f"{name} by at most {value:.1e}" for name, value in worst.items())
    return f"{num_rows} rows in batches of {', '.join(map(str, sizes))}: {text}"


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model at another opset.

    Raises:
        ValueError: There is no way to it.
    """
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # an assertion in C++
        raise ValueError(f"there is no way to opset {opset}: {plainly(error)}") from error


def plainly(error: Exception) -> str:
    """What the converter or the checker of ONNX refuses; they say it in the words of their code."""
    op = re.search(r"No (?:Previous Version of|Adapter .* for|Op registered for) (\w+)", str(error))
    return f"ONNX can't turn its {op[1]} into one of that opset" if op else short(error, 150)


def renewed(path: Path, opset: int) -> tuple[bytes, dict[str, Any]]:
    """A file at another opset, proven next to the old one; and what is known of the model.

    Raises:
        ValueError: It is no ONNX file, can't be converted, or its outputs change.
        FileNotFoundError: It isn't there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf
        raise ValueError(f"{path} is no ONNX file: {short(error, 100)}") from error
    props = {entry.key: entry.value for entry in model.metadata_props}
    facts = {k: json.loads(v) for k, v in props.items()} if "fingerprint" in props else {}
    old, x, sizes = session(path.read_bytes()), *drawn(model, facts)
    try:
        content = labelled(converted(model, opset), opset, facts)
    except ValueError as error:
        raise ValueError(f"{error}; export its checkpoint with --opset {opset}") from error
    names = [output.name for output in model.graph.output]
    print(f"proof: opset {opset}; {compare(old, session(content), x, names, sizes)}")
    return content, facts


def drawn(model: onnx.ModelProto, facts: dict[str, Any]) -> tuple[Inputs, tuple[int, ...]]:
    """Random inputs of a file whose data isn't at hand, and sizes of batches that it takes."""
    rng, sizes, x = np.random.default_rng(0), SIZES, {}
    for node in model.graph.input:
        kind = node.type.tensor_type
        first, *shape = (d.dim_value for d in kind.shape.dim)
        if not all(shape):
            raise ValueError(f"input `{node.name}`: no dimension but the first may vary")
        sizes = (first,) if first else sizes
        dtype, size = helper.tensor_dtype_to_np_dtype(kind.elem_type), (128 * (first or 1), *shape)
        whole = rng.integers(0, 256 if dtype == np.uint8 else 2, size)
        x[node.name] = (rng.normal(size=size) if dtype.kind == "f" else whole).astype(dtype)
    if facts:
        [name], ends = x, edges(facts)
        if len(ends) > 2:  # the mean, and three standard deviations above it
            x[name] = (ends[0] + x[name] * (ends[1] - ends[0]) / 3).astype(ends.dtype)
        x[name] = np.concatenate([x[name], ends])
    return x, sizes
