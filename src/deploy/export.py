"""Writes one ONNX file that takes raw rows, of a checkpoint or another file, only if proven."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from src.deploy import OLDEST, USUAL, Parser
from src.deploy.card import card


def main(argv: list[str]) -> None:
    """Runs `python -m src export`.

    Raises:
        ValueError: An option is wrong, or a proof failed; nothing is written then.
    """
    parser = Parser("python -m src export", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--ckpt_path", type=Path, metavar="FILE", help="a checkpoint: RUN/checkpoints/best.ckpt")
    add("--onnx", type=Path, metavar="FILE", help="or an ONNX file, to convert to another opset")
    add("--opset", type=int, default=USUAL, metavar="N", help=f"{OLDEST} or more [{USUAL}]")
    add("--format", choices=["onnx", "safetensors"], default="onnx", help="[onnx]")
    add("--quantize", choices=["int8"], help="8 bits, if it is as good on the validation rows")
    text = "what int8 may cost: of val/acc, or the share by which val/rmse grows [0.01]"
    add("--max_drop", type=float, metavar="SHARE", default=0.01, help=text)
    add("--out", type=Path, metavar="DIR", help="the folder to write [RUN/export]")
    parser.epilog = "Flags of a config, such as --data.source.path, say where the data is now."
    args, rest = parser.parse_known_args(argv)
    if (args.ckpt_path is None) == (args.onnx is None):
        raise ValueError("export needs --ckpt_path RUN/checkpoints/best.ckpt, or --onnx FILE")
    if args.onnx and (rest or args.quantize or args.format != "onnx"):
        raise ValueError("export: with --onnx go --opset and --out alone")
    if args.quantize and args.format != "onnx":
        raise ValueError("export: --quantize is for --format onnx")
    try:
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401

        from src.deploy import proof
    except ImportError as error:
        needs = "pip install onnx onnxruntime onnxscript safetensors  (the extra `export`)"
        raise ValueError(f"export needs {error.name}: {needs}") from None
    if not (13 if args.quantize else OLDEST) <= args.opset <= proof.NEWEST:
        span = f"{OLDEST} to {proof.NEWEST}; 13 or more for int8"
        raise ValueError(f"--opset {args.opset}: give {span}")
    home = (args.onnx or args.ckpt_path).absolute().parent
    if args.onnx:
        folder = args.out or home.with_name(f"{home.name}-opset{args.opset}")
        check_free(folder)
        write(folder, "model.onnx", *proof.renewed(args.onnx, args.opset))
        return
    folder = args.out or home.parent / "export"
    check_free(folder)  # before minutes of work
    from src.startup import import_lightning

    import_lightning()
    from src.deploy.trained import Trained

    trained = Trained(args.ckpt_path, rest)
    if args.format == "onnx":
        model = trained.graph(args.opset)
        if args.quantize:
            model = trained.quantized(model, args.max_drop)
        content = proof.labelled(model, args.opset, trained.facts)
        trained.prove(content, args.opset, is_exact=not args.quantize)
    else:
        content = trained.weights()
    write(folder, f"model.{args.format}", content, trained.facts)


def check_free(folder: Path) -> None:
    """Raises `ValueError` if there is something else than an export."""
    if folder.exists() and not (folder / "SHA256SUMS").is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files: choose another folder with --out DIR")


def write(folder: Path, name: str, content: bytes, facts: dict[str, Any]) -> None:
    """Puts a folder in its place at once: the file, what it means, its card, and checksums.

    Args:
        folder: An export in its place is replaced.
        name: Name of the file.
        content: What is in it.
        facts: What is known of the model; empty for a file that says nothing of itself.
    """
    files = {name: content}
    if facts:
        files["signature.json"] = json.dumps(facts, indent=1).encode()
        files["card.md"] = card(facts, name).encode()
    sums = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in files)
    files["SHA256SUMS"] = "".join(sums).encode()
    home = folder.resolve()
    new, old = (home.with_name(f".{home.name}.{word}") for word in ("new", "old"))
    for path in (new, old):  # of an export that was killed
        shutil.rmtree(path, ignore_errors=True)
    new.mkdir(parents=True)
    for file, text in files.items():
        (new / file).write_bytes(text)
    if home.exists():
        home.rename(old)
    new.rename(home)
    shutil.rmtree(old, ignore_errors=True)
    print(f"export: {folder} ({name}, {len(content):,} bytes)")
