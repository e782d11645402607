"""The card of a model: what it is, what it was made from, how good it is, how to use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PIXELS = "Pixels must have the range that they have in the data; other sizes are stretched."
ENDS, SPAN = "value | interval of 95 %", "{:.4g} | {:.4g} to {:.4g}"
TEMPLATE = Path(__file__).with_name("card.md")
MISSING = "A missing number is taken for the mean, a category never seen for a missing one."


def card(facts: dict[str, Any], file: str) -> str:
    """Markdown of all that is known of a model.

    Args:
        facts: What `Trained` found out.
        file: Name of the file that the card lies beside.
    """
    signature, outputs = facts["signature"], facts["outputs"]
    limit = PIXELS if signature["dtype"] == "uint8" else MISSING
    features, metrics, classes = ["feature | values"], [f"metric | {ENDS} | rows"], []
    for name in signature["feature_names"]:
        codes = enumerate(signature["categories"].get(name, ()), 1)
        features.append(f"{name} | {', '.join(f'{i}: {v}' for i, v in codes) or 'number'}")
    for split, found in facts["metrics"].items():
        for name, ends in found["values"].items():
            metrics.append(f"{split}/{name} | {SPAN.format(*ends)} | {found['rows']:,}")
    for name, found in facts["classes"].items():
        values = f"{SPAN.format(*found['recall'])} | {found['precision']:.4g}"
        classes.append(f"{name} | {values} | {found['rows']:,}")
    if few := [name for name, found in facts["classes"].items() if found["rows"] < 30]:
        limit += f"\n- Fewer than 30 rows speak for each of: {', '.join(few)}."
    model = yaml.safe_load(facts["config"])["model"]
    kinds = (x["class_path"].split(".")[-1] for x in (model, model["init_args"]["net"]))
    text = {
        "model": " with ".join(kinds),
        "outputs": ", ".join(outputs),
        "targets": ", ".join(signature["class_names"] or signature["target_names"]),
        "features": table(features),
        "metrics": table(metrics),
        "int8": f"That is the model; in 8 bits: {facts['int8']}.\n\n" if "int8" in facts else "",
        "classes": table(
            [f"class | {ENDS.replace('value', 'recall')} | precision | rows", *classes]
        ),
        "limit": limit,
        "unpacked": ", ".join(outputs) if len(outputs) > 1 else f"[{outputs[0]}]",
    }
    head, onnx, torch, tail = re.split("<!--.*-->\n", TEMPLATE.read_text("utf-8"))
    return (head + (onnx if file.endswith(".onnx") else torch) + tail).format(**facts | text)


def table(lines: list[str]) -> str:
    """A table of Markdown; nothing without more lines than the first."""
    rule = " | ".join("---" for _ in lines[0].split(" | "))
    lines = [lines[0], rule, *lines[1:]]
    return "\n".join(f"| {line} |" for line in lines) if len(lines) > 2 else ""
