"""The card of a model: what it is, what it was made from, how good it is, how to use it."""

from __future__ import annotations

from typing import Any

import yaml

PYTHON = """import json, pathlib
import numpy as np, onnxruntime as ort
signature = json.loads(pathlib.Path("signature.json").read_text())["signature"]
session = ort.InferenceSession("model.onnx")  # providers=["TensorrtExecutionProvider", ...]
x = np.zeros((1, *signature["in_shape"]), signature["dtype"])  # raw rows, one or many
{} = session.run(None, {{"x": x}})"""
TORCH = """from safetensors.torch import load_file
model.load_state_dict(load_file("model.safetensors"))  # net.*: the net of the config below"""
ELSEWHERE = """
The same file runs in ONNX Runtime's C++ API (`Ort::Session`, https://onnxruntime.ai/docs/api/c) and
in JavaScript (`InferenceSession.create` of npm's `onnxruntime-web` and `onnxruntime-node`): the
same input `x`, the same outputs."""
LIMITS = """- Rows of another time, place or kind than these may do worse: an interval only says how
  well the number of rows lets a value be known."""
PIXELS = (
    "- Pixels must have the range that they have in the data; images of another size are stretched."
)
MISSING = "- A missing number is taken for the mean, a category never seen for a missing one."


def card(facts: dict[str, Any], file: str) -> str:
    """Markdown of all that is known of a model.

    Args:
        facts: What `Trained` found out.
        file: Name of the file that the card lies beside.
    """
    signature, rows, outputs = facts["signature"], facts["rows"], facts["outputs"]
    classes, targets = facts["classes"], signature["class_names"] or signature["target_names"]
    model = yaml.safe_load(facts["config"])["model"]
    kind, net = (x["class_path"].split(".")[-1] for x in (model, model["init_args"]["net"]))
    lines = [
        f"# {facts['name']}\n",
        f"{kind} with {net}; torch {facts['versions']['torch']}, commit {facts['commit']}.\n",
        f"- Takes `x`, raw rows of {signature['dtype']} {signature['in_shape']}: scale nothing.",
        f"- Gives {', '.join(outputs)} of {', '.join(targets)}.",
    ]
    if signature["feature_names"]:
        lines.append("\n| feature | values |\n|---|---|")
    for name in signature["feature_names"]:
        codes = enumerate(signature["categories"].get(name, ()), 1)
        lines.append(f"| {name} | {', '.join(f'{i}: {v}' for i, v in codes) or 'number'} |")
    counts = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    lines.append(f"\n## Data\n\n{counts} rows; fingerprint {facts['fingerprint']}.\n\n## Metrics\n")
    lines.append("| metric | value | interval of 95 % | rows |\n|---|---|---|---|")
    for split, found in facts["metrics"].items():
        for name, (value, low, high) in found["values"].items():
            ends = f"{low:.4g} to {high:.4g}"
            lines.append(f"| {split}/{name} | {value:.4g} | {ends} | {found['rows']:,} |")
    if "int8" in facts:
        lines.append(f"\nThat is the model; the file, in 8 bits: {facts['int8']}.")
    if classes:
        lines.append(
            "\n| class | recall | interval of 95 % | precision | rows |\n|---|---|---|---|---|"
        )
    for name, found in classes.items():
        recall, low, high = found["recall"]
        values = f"{recall:.4g} | {low:.4g} to {high:.4g} | {found['precision']:.4g}"
        lines.append(f"| {name} | {values} | {found['rows']:,} |")
    lines += ["\n## Limits\n", LIMITS, PIXELS if signature["dtype"] == "uint8" else MISSING]
    if few := [name for name, found in classes.items() if found["rows"] < 30]:
        lines.append(f"- Fewer than 30 rows speak for each of: {', '.join(few)}.")
    is_onnx = file.endswith(".onnx")
    code = PYTHON.format(", ".join(outputs) if len(outputs) > 1 else f"[{outputs[0]}]")
    lines.append(f"\n## Use\n\n```python\n{code if is_onnx else TORCH}\n```\n{ELSEWHERE * is_onnx}")
    lines.append(f"\n## Config\n\n```yaml\n{facts['config'].strip()}\n```\n")
    return "\n".join(lines)
