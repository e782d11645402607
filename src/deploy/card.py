"""The card of a model: what it is, what it was made from, how good it is, how to use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PIXELS = "Pixels must have the range that they have in the data; other sizes are stretched."
TEMPLATE = Path(__file__).with_name("card.md")
MISSING = "A missing number is taken for the mean, a category never seen for a missing one."


def card(facts: dict[str, Any], file: str) -> str:
    """Markdown of all that is known of a model.

    Args:
        facts: What `Trained` found out.
        file: Name of the file that the card lies beside.
    """
    signature, outputs, rows = facts["signature"], facts["outputs"], facts["rows"]
    limit, coded = PIXELS if signature["dtype"] == "uint8" else MISSING, signature["categories"]
    features, metrics, classes = [], [], []
    for name in signature["feature_names"]:
        codes = enumerate(coded.get(name, ()), 1)
        features.append(f"{name} | {', '.join(f'{i}: {v}' for i, v in codes) or 'number'}")
    for split, found in facts["metrics"].items():
        for name, (value, *ends) in found["values"].items():
            metrics.append(f"{split}/{name} | {value:.4g} | {span(ends)} | {found['rows']:,}")
    for name, found in facts["classes"].items():
        recall, *ends = found["recall"]
        values = f"{recall:.4g} | {span(ends)} | {found['precision']:.4g}"
        classes.append(f"{name} | {values} | {found['rows']:,}")
    if few := [name for name, found in facts["classes"].items() if found["rows"] < 30]:
        limit += f"\n- Fewer than 30 rows speak for each of: {', '.join(few)}."
    chosen = yaml.safe_load(facts["config"])["model"]
    model, net = (x["class_path"].split(".")[-1] for x in (chosen, chosen["init_args"]["net"]))
    head, onnx, torch, tail = re.split("<!--.*-->\n", TEMPLATE.read_text("utf-8"))
    return (head + (onnx if file.endswith(".onnx") else torch) + tail).format(
        name=facts["name"],
        model=f"{model} with {net}",
        torch=facts["versions"]["torch"],
        commit=facts["commit"],
        dtype=signature["dtype"],
        in_shape=signature["in_shape"],
        outputs=", ".join(outputs),
        targets=", ".join(signature["class_names"] or signature["target_names"]),
        features=table("feature | values", features),
        rows=", ".join(f"{count:,} {split}" for split, count in rows.items()),
        fingerprint=facts["fingerprint"],
        metrics=table("metric | value | interval of 95 % | rows", metrics),
        int8=f"That is the model; the file, in 8 bits: {facts['int8']}.\n\n"
        if "int8" in facts
        else "",
        classes=table("class | recall | interval of 95 % | precision | rows", classes),
        limit=limit,
        outs=", ".join(outputs) if len(outputs) > 1 else f"[{outputs[0]}]",
        config=facts["config"].strip(),
    )


def span(ends: list[float]) -> str:
    """An interval as the card shows it."""
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def table(head: str, rows: list[str]) -> str:
    """A table of Markdown; nothing without rows."""
    lines = [head, "|".join("---" for _ in head.split("|")), *rows]
    return "\n".join(f"| {line} |" for line in lines) if rows else ""
