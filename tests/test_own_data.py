# ruff: noqa: E501 (a hostile file a line)
"""Files as people have them: trained on, tested and predicted from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from src.callbacks import Report

RNG = np.random.default_rng(0)
FIT = (
    "--model.net MLP --model.optimizer AdamW --model.optimizer.lr 0.01 --data.batch_size 16 "
    "--trainer.max_epochs 2 --run own"
)


def people(num_rows=90):
    """Numbers, texts and gaps; a class of 6 rows; names with a space, a dot and an umlaut."""
    lines = ["my age,Größe.cm,city,member,who"]
    for i in range(num_rows):
        age, size = RNG.normal(40, 9), RNG.normal(170, 9)
        city, member = RNG.choice(["Rome", "København", '"Paris, France"']), RNG.random() < 0.5
        cells = [f"{age:.2f}", f"{size:.3f}", city, member]
        cells = ["" if RNG.random() < 0.1 else str(cell) for cell in cells]
        lines.append(",".join([*cells, "rare" if i < 6 else "no" if age < 40 else "yes"]))
    return "\n".join(lines) + "\n"


PEOPLE = people()


@pytest.fixture
def fit(go, tmp_path, monkeypatch):
    """Writes a file, trains on it for two epochs, and tests the best checkpoint once more."""
    monkeypatch.setattr(Report, "_write", lambda *_: None)  # pictures take most of the time

    def trained(content, name, *words, model="Classifier", target="who"):
        path = tmp_path / name
        if isinstance(content, dict):
            np.savez(path, **content)
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = "Arrays" if path.suffix in (".npz", "") else f"Table --data.source.target {target}"
        line = f"fit --model {model} {FIT} --data.source {source} --data.source.path"
        said = go(line, path, *words)
        if said.code == 0:
            again = go("test --ckpt_path", said.folder / "checkpoints" / "best.ckpt")
            assert again.metrics == said.metrics, again.err
        return said

    return trained


@pytest.fixture
def predict(go, tmp_path):
    """Predictions of new rows by the run `own`: a list of dicts by column."""

    def predicted(*words):
        best = tmp_path / "runs" / "own" / "checkpoints" / "best.ckpt"
        said = go("predict --ckpt_path", best, *words)
        assert said.code == 0, said.err
        path = said.out.partition("predictions: ")[2].strip()
        return list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))

    return predicted


def scores(lines, *names):
    return np.array([[float(line[name]) for name in names] for line in lines])


def test_a_mixed_table_from_file_to_predictions(fit, predict, tmp_path):
    said = fit(PEOPLE, "people.csv")
    assert said.code == 0, said.err
    mean = json.loads((said.folder / "statistics.json").read_text())["mean"]
    new = tmp_path / "new.csv"
    new.write_text(
        "note,city,Größe.cm,my age,member\n"  # another order, an extra column, no target
        "x,Rome,170,50,True\n"
        "x,Atlantis,170,50,TRUE\n"  # a category never seen is like a missing one
        'x,,170.0,50,"true"\n'
        f"x,Rome,170,{mean[0]!r},1\n"  # a missing number is like the mean
        "x,Rome,170,NA,?\n"
        ",,,,\n"  # a row without any value is a row
        "\n",
        encoding="utf-8-sig",
    )
    lines = predict("--data.predict_path", new)
    assert [line["row"] for line in lines] == ["0", "1", "2", "3", "4", "5"]
    classes = ("no", "rare", "yes")
    probs = scores(lines, *classes)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert [line["predicted"] for line in lines] == [classes[i] for i in probs.argmax(1)]
    assert probs[0].tolist() != probs[1].tolist()
    assert probs[1].tolist() == probs[2].tolist()
    np.testing.assert_allclose(probs[3], probs[4], atol=2e-5)


def test_a_spreadsheet_of_europe_trains_the_same(fit, go, tmp_path):
    plain = fit(PEOPLE, "people.csv").metrics
    rows = csv.reader(PEOPLE.splitlines())
    europe = "\r\n".join(
        ";".join(cell.replace(".", ",", i > 0) for cell in row) for i, row in enumerate(rows)
    )
    (tmp_path / "runs" / "own").rename(tmp_path / "runs" / "plain")
    assert fit("\ufeff" + europe, "europe.csv").metrics == plain


def test_parquet_and_what_pandas_writes_agree(fit, predict, tmp_path):
    frame = pl.DataFrame(
        {
            "size": RNG.normal(size=60).astype(np.float32),
            "flag": RNG.random(60) < 0.5,
            "kind": pl.Series(RNG.choice(["u", "v"], 60), dtype=pl.Categorical),
            "count": [None if i % 9 == 0 else i % 4 for i in range(60)],
            "who": RNG.random(60) < 0.5,
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    assert fit(None, "a.parquet").code == 0
    lines = predict("--data.predict_path", tmp_path / "a.parquet")
    texts = frame.with_columns(
        pl.col("count").cast(float), pl.col("flag").cast(str).str.to_titlecase()
    )
    texts.write_csv(tmp_path / "b.csv")  # as pandas does: 3.0, and True
    assert predict("--data.predict_path", tmp_path / "b.csv") == lines
    assert {line["predicted"] for line in lines} <= {"true", "false"}


def test_values_are_predicted_in_their_unit(fit, predict, tmp_path):
    x = RNG.normal(size=200)
    table = "area m²,price\n" + "".join(f"{v},{250_000 + 80_000 * v:.0f}\n" for v in x)
    said = fit(table, "houses.csv", "--trainer.max_epochs", 20, model="Regressor", target="price")
    assert said.metrics["test/r2"] > 0.99
    (tmp_path / "new.csv").write_text("area m²\n-1\n0\n1\n", encoding="utf-8")
    prices = scores(predict("--data.predict_path", tmp_path / "new.csv"), "price")[:, 0]
    np.testing.assert_allclose(prices, [170_000, 250_000, 330_000], atol=10_000)


def test_arrays_of_bytes_with_a_published_test_split(fit, predict, tmp_path):
    x = RNG.integers(0, 255, (60, 1, 6, 6), dtype=np.uint8)
    y = np.where(x.mean((1, 2, 3)) < 127, "dark", "light")
    said = fit({"x": x, "y": y, "x_test": x[:9] ^ 1, "y_test": y[:9]}, "own.npz")
    counts = json.loads((said.folder / "partition.json").read_text())["counts"]
    assert sum(counts.values()) == 69
    assert counts["test"] == 9
    np.savez(tmp_path / "new.npz", x=x)
    np.save(tmp_path / "new.npy", x)
    lines = predict("--data.predict_path", tmp_path / "new.npz")
    assert predict("--data.predict_path", tmp_path / "new.npy") == lines
    assert len(lines) == 60
    assert set(lines[0]) == {"row", "predicted", "dark", "light"}


def test_a_folder_stays_on_disk_from_training_to_prediction(fit, predict, tmp_path):
    folder = tmp_path / "signals"
    folder.mkdir()
    x = RNG.integers(-99, 99, (70, 2, 8), dtype=np.int16)
    parts = {
        "x": x[:50],
        "y": np.arange(50) % 3 + 1,
        "x_test": x[50:],
        "y_test": np.arange(20) % 3 + 1,
    }
    for name, array in parts.items():
        np.save(folder / f"{name}.npy", array)
    assert fit(None, "signals").code == 0
    lines = predict("--data.predict_path", folder)
    assert len(lines) == 50
    np.savez(tmp_path / "new.npz", x=x[:50])
    assert predict("--data.predict_path", tmp_path / "new.npz") == lines
    assert set(lines[0]) == {"row", "predicted", "1", "2", "3"}


@pytest.mark.filterwarnings("default")
def test_data_grows_after_the_training(fit, go, tmp_path):
    said = fit(PEOPLE, "people.csv")
    best, path = said.folder / "checkpoints" / "best.ckpt", tmp_path / "people.csv"
    path.write_text(PEOPLE + "33,180,Utopia,True,no\n")
    grown = go("test --ckpt_path", best)
    assert grown.code == 0
    assert "the data is not that of the checkpoint: its fingerprint differs" in grown.err
    path.write_text(PEOPLE + "33,180,Rome,True,perhaps\n")
    refused = go("test --ckpt_path", best)
    assert refused.code == 2
    assert refused.err == (
        f"error: {path}: the target `who` has the class `perhaps`, new to the model; there are: no, "
        "rare, yes\n"
    )


def table(y, a="{i}", num_rows=40):
    return "a,who\n" + "".join(f"{a.format(i=i)},{y(i)}\n" for i in range(num_rows))


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (table(lambda i: "ab"[i % 2]) + "7,once\n", (), "class 'once' has 1 "),
        (table(lambda i: i % 2, "{i}") + "none,1\n", (), "line 42: `none` in the numeric column `a` "),
        (table(lambda i: i % 2, "id{i}"), (), "column `a` has 40 values, 40 different texts: leave it out"),
        (table(lambda i: i % 2, ""), (), "column `a` is empty: leave it out"),
        (table(lambda i: i % 2 or ""), (), "line 2: `who` (data.source.target) has no value, the first of 20 such"),
        (table(lambda i: "ab"[i % 2], "{i}") * 2, (), "line 42: `a` in the numeric column `a` "),
        (table(lambda i: i), (), "Classifier needs classes, and the data has targets to regress"),
        (table(lambda i: "ab"[i % 2], "1"), (), "class 'a' has 1 "),
        (table(lambda i: "ab"[i % 2 * (i > 9)], "{i}").replace("2", "1"), (), "set `data.partition.duplicates` to drop or allow"),
        (table(lambda i: "Zürich").encode("latin-1"), (), "people.csv is neither text in UTF-8 nor .parquet: save it as one"),
        (PEOPLE, ("--data.source.drop", "[town]"), "people.csv has no column `town` (data.source.drop); there are: my age"),
        (PEOPLE, ("--data.source.types", "{my age: number}"), "data.source.types"),
        ({"x": np.zeros((9, 2)), "y": np.arange(8)}, (), "`y` is of shape (8,) for 9 rows of x"),
        ({"x_train": np.zeros((9, 2))}, (), "has `x_train`, which is unknown; there are: x, y, x_val, "),
        (b"PK\3\4 cut", (), "own.npz can't be read as numpy's arrays of numbers or text: "),
    ],
)  # fmt: skip
def test_one_line_where_it_can_not_be(fit, content, words, says):
    is_array = isinstance(content, dict) or content[:2] == b"PK"
    said = fit(content, "own.npz" if is_array else "people.csv", *words)
    assert said.code == 2, said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
