# ruff: noqa: E501 (a hostile input a line)
import csv
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from scipy.stats import binomtest

from src.__main__ import main
from src.deploy import proof, trained
from src.deploy.measure import measured, wilson
from src.deploy.trained import Trained
from src.models.regressor import Regressor
from src.run_folder import read_checkpoint
from tests.conftest import ROOT, refused
from tests.exports import SOME, export, run


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def outputs(folder, x):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


@cache
def predicted(name):
    """The test rows of a run, raw, and what `predict` says of them."""
    path = run(name)
    assert main(["predict", "--ckpt_path", str(path)]) == 0
    with (path.parents[1] / "predictions_test.csv").open(newline="") as file:
        lines = [*csv.reader(file)][1:]
    data = Trained(path, []).data
    first = 2 if data.signature.class_names else 1
    x = np.asarray(data.x[np.sort(data.split.test)])
    return x, np.array([line[first:] for line in lines], float)


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        ("kind", 11),
        ("kind", proof.NEWEST),
        ("price", 12),
        ("digits", 18),
        ("signals", 11),
        ("diabetes", proof.NEWEST),
        ("colours", 16),
    ],
)
def test_file_says_what_predict_says(go, tmp_path, name, opset):
    said = go(f"export --ckpt_path {run(name)} --opset {opset} --out {tmp_path}/out")
    assert said.code == 0, said.err
    assert said.err == ""
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not [n for n in model.graph.node if n.metadata_props or n.doc_string]
    x, expected = predicted(name)
    found = outputs(tmp_path / "out", x)
    scores = found["probabilities" if "logits" in found else "values"]
    spread = 1 if "logits" in found else expected.std()
    assert np.abs(scores - expected).max() <= 1e-5 * spread
    if "logits" in found:
        softmax = torch.from_numpy(found["logits"]).softmax(1).numpy()
        assert np.abs(scores - softmax).max() < 1e-6
    tested = go(f"test --ckpt_path {run(name)}").metrics
    by_file = dict(re.findall(r"(test/\w+) (\S+?)[, ]", said.out))
    assert by_file.keys() == tested.keys() - {"test/loss"}
    for key, value in by_file.items():
        assert float(value) == pytest.approx(tested[key], rel=1e-5)


def test_folder_has_all_that_is_known(monkeypatch):
    folder = export("kind")
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {"model.onnx", "signature.json", "card.md"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    facts = json.loads((folder / "signature.json").read_text())
    inside = {p.key: json.loads(p.value) for p in onnx.load(folder / "model.onnx").metadata_props}
    assert {key: facts[key] for key in inside if key != "metrics"} == {
        key: inside[key] for key in inside if key != "metrics"
    }
    checkpoint = read_checkpoint(run("kind"))
    assert facts["fingerprint"] == checkpoint["DataModule"]["fingerprint"]
    assert facts["signature"]["categories"]["state"] == ["new", "old", 'r"u,in']
    assert facts["statistics"]["mean"] == list(checkpoint["DataModule"]["statistics"]["mean"])
    assert facts["rows"]["test"] == facts["metrics"]["test"]["rows"] == 60
    card = (folder / "card.md").read_text()
    for split, found in facts["metrics"].items():
        for name, (value, low, high) in found["values"].items():
            assert low <= high
            assert f"| {split}/{name} | {value:.4g} | {low:.4g} to {high:.4g} |" in card
    [code] = re.findall(r"```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    assert names["probabilities"].shape == (1, 3)


def test_classes_are_counted_as_they_are():
    facts = json.loads((export("digits") / "signature.json").read_text())
    model = Trained(run("digits"), [])
    scores, y, _ = model.model.results["test"]
    preds = scores.argmax(1)
    for code, (name, found) in enumerate(facts["classes"].items()):
        assert name == str(code)
        assert found["rows"] == (y == code).sum()
        assert found["recall"][0] == pytest.approx((preds[y == code] == code).float().mean().item())
        if (preds == code).any():
            assert found["precision"] == pytest.approx((y[preds == code] == code).float().mean())


def test_intervals_are_those_of_the_books():
    for hits, count in ((0, 5), (3, 7), (95, 100), (269, 269)):
        ci = binomtest(hits, count).proportion_ci(method="wilson")
        assert wilson(hits / count, count) == pytest.approx((ci.low, ci.high), abs=1e-6)
    model, y = Regressor.__new__(Regressor), torch.zeros(4000, 1)
    error = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))
    object.__setattr__(model, "results", {"test": (error, y, None)})
    value, low, high = measured(model, "test")["values"]["mae"]
    assert value == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt((1 - 2 / math.pi) / 4000), rel=0.25)


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*")} if folder.exists() else None


def wrong_outputs(self, x, run=Trained.run):
    logits, probabilities = run(self, x)
    off = np.float32(2e-5) * (np.arange(len(logits)) == 7)[:, None]
    return [logits, probabilities + off]


@pytest.mark.parametrize(
    ("name", "lie", "line"),
    [
        ("run", wrong_outputs, r"`probabilities` differs by 2e-05 in batches of 17: more than"),
        (
            "graph",
            lambda self, opset, graph=Trained.graph: graph(self, 17),
            r"opset 13 was asked for, and this can only be written as \{\('ai.onnx', 17\)\}",
        ),
        (
            "scores",
            lambda self, run, split: self.model.results[split][0].flip(0),
            "by the checkpoint val has .*: so nothing was written",
        ),
    ],
)
def test_failed_proof_writes_nothing(go, tmp_path, monkeypatch, name, lie, line):
    monkeypatch.setattr(Trained, name, lie)
    shutil.copytree(export(SOME), tmp_path / "old")
    for out in ("new", "old"):
        before = snapshot(tmp_path / out)
        said = go(f"export --ckpt_path {run(SOME)} --opset 13 --out {tmp_path}/{out}")
        assert said.code == 2
        assert re.fullmatch(f"error: .*{line}.*\n", said.err), said.err
        assert snapshot(tmp_path / out) == before


def test_a_graph_that_the_exporter_cannot_write(go, tmp_path, monkeypatch):
    monkeypatch.setattr(trained.Raw, "forward", lambda self, x: (torch.linalg.svdvals(x),))
    said = go(f"export --ckpt_path {run(SOME)} --opset 12 --out {tmp_path}/out")
    assert said.code == 2
    assert said.err.startswith("error: this model can't be written at opset 12: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "scale", "base", "right", "wrong"),
    [
        ("probabilities", 1, 0, 0.9e-5, 1.1e-5),
        ("probabilities", 100, 1e3, 0.9e-5, 1.1e-5),
        ("values", 1, 0, 0.5e-5, 1e-4),
        ("values", 100, 0, 0.5e-3, 1e-2),
        ("values", 1, 1e5, 0.1, 0.3),
    ],
)
def test_bound_of_a_difference(name, scale, base, right, wrong):
    x = {"x": np.random.default_rng(0).normal(size=(300, 3))}

    def old(x, by=0.0):
        return [x["x"] * scale + base + by]

    said = proof.compare(old, lambda x: old(x, right), x, [name], (1, 128))
    assert re.fullmatch(rf"300 rows in batches of 1, 128: {name} by at most {right:.1e}", said)
    line = refused(lambda: proof.compare(old, lambda x: old(x, wrong), x, [name], (1, 128)))
    assert line.startswith(f"`{name}` differs by {wrong:.2g} in batches of 1: more than rounding")


def test_conversion_up_and_down(go, tmp_path):
    x = np.full((3, 4), 1, np.float32)
    expected = outputs(export("price"), x)
    for opset in (21, 15):
        said = go(f"export --onnx {export('price')}/model.onnx --opset {opset} --out {tmp_path}/o")
        assert said.code == 0, said.err
        model = onnx.load(tmp_path / "o" / "model.onnx")
        assert model.opset_import[0].version == opset
        facts = json.loads((tmp_path / "o" / "signature.json").read_text())
        assert facts["opset"] == opset
        assert facts["signature"]["target_names"] == ["price"]
        for name, value in outputs(tmp_path / "o", x).items():
            assert np.abs(value - expected[name]).max() < 1e-4
    said = go(f"export --onnx {export('price')}/model.onnx --opset 11 --out {tmp_path}/p")
    assert said.code == 2
    why = "ONNX can't turn its Sub into one of that opset; export its checkpoint with --opset 11"
    assert said.err == f"error: there is no way to opset 11: {why}\n"
    assert not (tmp_path / "p").exists()


def foreign(path, shape, op="Relu"):
    """A file of another program, at opset 15."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    model.metadata_props.add(key="author", value="no JSON")
    onnx.save(model, path)


@pytest.mark.parametrize("shape", [["n", 3], [4, 2, 2]])
def test_conversion_of_a_foreign_file(go, tmp_path, shape):
    foreign(tmp_path / "f.onnx", shape)
    said = go(f"export --onnx {tmp_path}/f.onnx --opset 20 --out {tmp_path}/o")
    assert said.code == 0, said.err
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"model.onnx", "SHA256SUMS"}
    model = onnx.load(tmp_path / "o" / "model.onnx")
    assert model.opset_import[0].version == 20
    assert model.metadata_props[0].value == "no JSON"


def test_conversion_that_changes_outputs_is_refused(go, tmp_path, monkeypatch):
    foreign(tmp_path / "f.onnx", ["n", 3])
    foreign(tmp_path / "g.onnx", ["n", 3], "Abs")
    lie = onnx.load(tmp_path / "g.onnx")
    monkeypatch.setattr(proof.version_converter, "convert_version", lambda *_: lie)
    said = go(f"export --onnx {tmp_path}/f.onnx --opset 15 --out {tmp_path}/o")
    assert said.code == 2
    assert said.err.startswith("error: `y` differs by ")
    assert not (tmp_path / "o").exists()


def test_a_conversion_to_what_is_not_valid_is_refused_in_plain_words(go, tmp_path, monkeypatch):
    foreign(tmp_path / "f.onnx", ["n", 3])
    foreign(tmp_path / "g.onnx", ["n", 3], "Gelu")  # of opset 20
    lie = onnx.load(tmp_path / "g.onnx")
    monkeypatch.setattr(proof.version_converter, "convert_version", lambda *_: lie)
    said = go(f"export --onnx {tmp_path}/f.onnx --opset 15 --out {tmp_path}/o")
    why = "ONNX can't turn its Gelu into one of that opset; export its checkpoint with --opset 15"
    assert (said.code, said.err) == (2, f"error: opset 15: no valid file: {why}\n")
    assert not (tmp_path / "o").exists()


def test_int8_is_taken_or_refused_by_its_numbers(go, tmp_path):
    line = f"export --ckpt_path {run('digits')} --quantize int8 --opset 13 --out {tmp_path}/o"
    said = go(f"{line} --max_drop 0.05")
    assert said.code == 0, said.err
    found = re.search(
        r"int8: val/acc (\S+) becomes (\S+); ([\d,]+) bytes become ([\d,]+)", said.out
    )
    was, now, large, small = (float(text.replace(",", "")) for text in found.groups())
    assert was - now <= 0.05
    assert small < large / 2
    assert found[0][6:] in (tmp_path / "o" / "card.md").read_text()
    kinds = {node.op_type for node in onnx.load(tmp_path / "o" / "model.onnx").graph.node}
    assert "DequantizeLinear" in kinds
    before = snapshot(tmp_path / "o")
    said = go(f"{line} --max_drop -1")
    assert said.code == 2
    assert re.fullmatch(
        r"error: int8 costs \S+, more than --max_drop -1: val/acc \S+ becomes .*\n", said.err
    )
    assert snapshot(tmp_path / "o") == before


def test_int8_of_a_regression(go, tmp_path):
    said = go(
        f"export --ckpt_path {run('price')} --quantize int8 --out {tmp_path}/o --max_drop 0.1"
    )
    assert said.code == 0, said.err
    assert "int8: val/rmse" in said.out


def test_safetensors_are_the_weights(go, tmp_path):
    from safetensors.torch import load_file

    said = go(f"export --ckpt_path {run('colours')} --format safetensors --out {tmp_path}/o")
    assert said.code == 0, said.err
    state = load_file(tmp_path / "o" / "model.safetensors")
    expected = read_checkpoint(run("colours"))["state_dict"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    assert "load_file" in (tmp_path / "o" / "card.md").read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    {
        "": "export needs --ckpt_path RUN/checkpoints/best.ckpt, or --onnx FILE",
        "--ckpt_path a --onnx b": "export needs --ckpt_path RUN/checkpoints/best.ckpt, or --onnx FILE",
        "--onnx b --quantize int8": "export: with --onnx go --opset and --out alone",
        "--onnx b --data.batch_size 3": "export: with --onnx go --opset and --out alone",
        "--ckpt_path a --opset 10": "--opset 10: give 11 to {newest}; 13 or more for int8",
        "--ckpt_path a --opset 99": "--opset 99: give 11 to {newest}; 13 or more for int8",
        "--ckpt_path a --opset 12 --quantize int8": "--opset 12: give 11 to {newest}; 13 or more for int8",
        "--ckpt_path a --quantize int8 --format safetensors": "export: --quantize is for --format onnx",
        "--ckpt_path a --opset x": "export: argument --opset: invalid int value: 'x'",
        "--ckpt_path a --quantize int4": "export: argument --quantize: invalid choice: 'int4' (choose from 'int8')",
        "--ckpt_path a": "checkpoint a does not exist",
        "--onnx a": "a does not exist",
        "--onnx README.md": "README.md is no ONNX file: .*",
        "--ckpt_path a --out src": "src holds other files: choose another folder with --out DIR",
        "--onnx README.md --out src": "src holds other files: choose another folder with --out DIR",
        "--ckpt_path {run} --modle.net MLP": "`modle`: there is no such key; did you mean model? .*",
    }.items(),
)
def test_wrong_words(go, words, line):
    said = go(f"export {words}".replace("{run}", str(run(SOME))))
    assert said.code == 2
    expected = re.escape(f"error: {line}\n".replace("{newest}", str(proof.NEWEST)))
    assert re.fullmatch(expected.replace(r"\.\*", ".*"), said.err), said.err
    assert said.out == ""


def test_a_room_that_was_deleted_has_no_subcommands(tmp_path):
    deploy = shutil.ignore_patterns("deploy", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=deploy)
    (tmp_path / "src/deploy/__pycache__").mkdir(parents=True)
    for words, code in (("export --ckpt_path a", 2), ("serve", 2), ("--help", 0)):
        command = [sys.executable, "-m", "src", *words.split()]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert said.returncode == code
        assert "export" not in said.stdout
        assert "\n  validate" in said.stdout or re.fullmatch(
            r"error: no subcommand '\w+'; there are: .*fit, .*, list\n", said.stderr
        )


def test_a_metric_that_has_no_value_is_left_out():
    model, y = Regressor.__new__(Regressor), torch.ones(9, 1)
    object.__setattr__(model, "results", {"test": (y + torch.arange(9.0)[:, None], y, None)})
    found = measured(model, "test")["values"]  # r2 is infinite
    assert found.keys() == {"rmse", "mae", "max"}
    assert np.isfinite([*found.values()]).all()


def test_a_missing_extra(go, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = go("export --ckpt_path a")
    assert said.err == (
        "error: export needs onnxscript: pip install onnx onnxruntime onnxscript safetensors  (the "
        "extra `export`)\n"
    ).replace("  (", " (")
