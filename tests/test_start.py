"""Files as people bring them: looked at, a config written for them, trained and compared."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from src.__main__ import main
from src.callbacks import Report
from src.data.module import DataModule
from src.data.partition import Stratified
from src.data.sources import Table
from src.start.first import compare
from src.start.look import IDS
from tests.conftest import Said


@pytest.fixture
def begin(tmp_path, monkeypatch, capfd):
    """`begin("data.csv --target price")`, as typed in an empty project."""
    monkeypatch.setattr(Report, "_write", lambda *_: None)  # pictures take most of the time
    monkeypatch.chdir(tmp_path)

    def typed(line):
        capfd.readouterr()
        code = main(line.split() if line.startswith("fit ") else ["start", *line.split()])
        return Said(code, *capfd.readouterr())

    return typed


def write(path, names, *columns):
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    Path(path).write_text("\n".join([names, *lines]) + "\n", encoding="utf-8")


def churn():
    """Numbers, texts, gaps and a date; an id, a constant, a leak; copies, one of them torn."""
    rng = np.random.default_rng(0)
    n = 700
    age, months = rng.integers(18, 90, n), rng.exponential(20, n).round(1)
    plan = rng.choice(["basic", "plus", "pro"], n)
    odds = 6 * np.where(plan == "pro", np.sin(age / 12), (months - 14) / 30)
    gone = np.where(rng.random(n) < 1 / (1 + np.exp(-odds)), "yes", "no")
    days = np.datetime64("2021-01-01") + rng.integers(0, 900, n).astype("timedelta64[D]")
    columns = [
        [f"C{i * 7919 % 99991}" for i in range(n)],
        np.where(rng.random(n) < 0.05, "", age),
        np.where(rng.random(n) < 0.05, "NA", plan),
        months,
        days,
        np.where(gone == "yes", "closed", "open"),
        ["NL"] * n,
        gone,
    ]
    columns = [[*column, *column[:3]] for column in columns]
    columns[-1][-1] = {"yes": "no", "no": "yes"}[columns[-1][-1]]
    write("churn.csv", "customer_id,age,plan,months,signed,account,country,gone", *columns)
    return "churn.csv --target gone --epochs 20"


def fraud():
    """A class of 2 %, which no line tells apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 4)).round(4)
    score = np.abs(x[:, 0]) + x[:, 1]
    write("fraud.csv", "a,b,c,d,fraud", *x.T, (score > np.quantile(score, 0.98)).astype(int))
    return "fraud.csv --target fraud --epochs 12"


def houses():
    """A quantity, skewed; the number of each row."""
    rng = np.random.default_rng(0)
    n = 900
    size, year, town = rng.lognormal(4.5, 0.6, n), rng.integers(1900, 2023, n), rng.choice(3, n)
    price = 1000 * size * (1 + 0.5 * (town == 0)) * np.exp(-(((year - 1960) / 40) ** 2) / 2)
    names = np.array(["Åre", "Oslo", "Rome"])[town]
    price = np.exp(rng.normal(0, 0.1, n)) * price
    write(
        "houses.csv", "nr,size,year,town,price", range(n), size.round(1), year, names, price.round()
    )
    return "houses.csv --target price --epochs 20"


def shapes():
    """Images of a disc or a ring anywhere, brighter or darker than their ground."""
    rng = np.random.default_rng(0)
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[:24, :24]
    for i in range(160):
        far = np.hypot(y - rng.uniform(8, 16), x - rng.uniform(8, 16))
        is_ring = i % 2
        form = (far < 7) & (far > 4) if is_ring else far < 5
        pixels = rng.normal(110, 12, (24, 24)) + form * 70 * rng.choice([-1, 1])
        folder = Path("shapes", ("disc", "ring")[is_ring])
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return "shapes --epochs 12"


def waves():
    """Signals of three frequencies in any phase, with a second channel that says nothing."""
    rng = np.random.default_rng(0)
    y, t = np.arange(360) % 3, np.arange(48) / 48
    phase = rng.random((360, 1))
    x = np.sin(2 * np.pi * (np.array([2, 4, 7])[y][:, None] * t + phase))
    x = np.stack([x, np.zeros_like(x)], 1) + rng.normal(0, 0.4, (360, 2, 48))
    np.savez("waves.npz", x=x.astype(np.float32), y=np.array(["low", "mid", "high"])[y])
    return "waves.npz --epochs 8"


@pytest.mark.parametrize(
    ("make", "says", "config"),
    [
        (
            churn,
            [
                r"customer_id +left out +an id or free text: 700 different",
                r"account +left out +a leak\? alone it predicts gone \(R2 0\.9\d\d\)",
                r"country +left out +empty or constant: 1 different",
                r"plan +categorical +3 different, \d+ missing",
                r"signed +date +2021-01-\d\d to 2023-06-\d\d",
                r"age +numeric +18 to 89, median \d+, \d+ missing",
                r"target `gone`: 2 classes, (yes|no) \d+ \(",
                r"copies of other rows: 3, 1 of them with another target",
            ],
            [
                "- customer_id  # ",
                "- account  # ",
                "- country  # ",
                "duplicates: drop",
                "# time_by: signed",
                "MLP:",
            ],
        ),
        (
            fraud,
            [r"target `fraud`: 2 classes, 0 2,940 \(98\.0%\), 1 60 \(2\.0%\); one is rare"],
            ["task: classification", "class_weights: balanced", "MLP:"],
        ),
        (
            houses,
            [r"nr +left out +an id: it counts the rows", r"target `price`: .* it is skewed"],
            ["- nr  # ", "Regressor:", "task: regression", "MLP:"],
        ),
        (
            shapes,
            ["shapes: 160 grey images of 24 x 24 pixels", "2 classes, disc 80"],
            ["channels: grey", "ConvNet:"],
        ),
        (
            waves,
            [
                r"waves\.npz: 360 rows of 2 x 48 \(channels x length\), float32",
                "3 classes, high 120",
            ],
            ["Arrays:", "kernel: 5"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_from_a_file_to_a_result_above_the_baselines(begin, make, says, config):
    line = make()
    said = begin(f"{line} --run first")
    assert said.code == 0, said.err
    assert said.err == ""
    for pattern in says:
        assert re.search(pattern, said.out), pattern
    assert len(said.out.partition("config: ")[0].splitlines()) <= 20
    name = re.split(r"\W", line)[0]
    text = Path("configs", f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(
        f"# python -m src fit --config configs/{name}.yaml\n# Written by `start`"
    )
    assert max(map(len, text.splitlines())) <= 110
    for part in config:
        assert part in text, part
    metric, net, linear, same = result(said.out)
    assert net[0] > same[0]
    assert same[1] == "better"
    assert net[0] >= linear[0] - 0.01
    assert linear[1] != "worse"
    report = json.loads(Path("runs/first/partition.json").read_text())
    counts = report["class_counts"]
    if metric == "acc":
        usual = max(counts["train"], key=counts["train"].get)
        expected = counts["test"][usual] / report["counts"]["test"]
        assert same[0] == pytest.approx(expected, abs=6e-4)
    if metric in ("acc", "r2"):
        assert net[0] == pytest.approx(said.metrics[f"test/{metric}"], abs=6e-4)
    again = begin(f"fit --config configs/{name}.yaml --run alone --trainer.max_epochs 1")
    assert again.code == 0, again.err
    assert json.loads(Path("runs/alone/partition.json").read_text()) == report
    assert json.loads(Path("runs/first-linear/partition.json").read_text()) == report


def result(out):
    """The metric, and for the net, the linear model and no model their scores and verdicts."""
    name, below = re.search(
        r"^(.*) of [\d,]+ test rows, and what the net gains.*\n((?:  .*\n)+)", out, re.M
    ).groups()
    lines = [
        re.match(r"  (?:this net|a linear model|always the same) +(\S+) *([^:]*)", line).groups()
        for line in below.splitlines()
    ]
    return name.removeprefix("test/"), *[(float(score), how) for score, how in lines]


def ended(data, scores, weights="none"):
    """As much of a run as the comparison looks at."""
    model = SimpleNamespace(results={"test": (torch.tensor(scores), None, None)})
    model.class_weights = weights
    return SimpleNamespace(datamodule=data, model=model)


def rows_of(y, num_train, classes):
    split = SimpleNamespace(train=np.arange(num_train), test=np.arange(num_train, len(y)))
    signature = SimpleNamespace(class_names=classes)
    return SimpleNamespace(y=torch.tensor(y), split=split, signature=signature)


def test_a_rare_class_weighs_as_much_as_others_in_the_comparison(capsys):
    """Gains of a row of class 0 weigh 10 / (2 x 8), of class 1 10 / (2 x 2)."""
    data = rows_of([0, 0, 1] + [0] * 8 + [1] * 2, 3, ("a", "b"))
    net = [[1.0, 0]] * 6 + [[0, 1.0]] * 4  # 6 of 8, 2 of 2
    linear = [[1.0, 0]] * 9 + [[0, 1.0]]  # 8 of 8, 1 of 2
    compare(ended(data, net, "balanced"), ended(data, linear))
    gain = np.array([0] * 6 + [-0.625] * 2 + [2.5, 0])
    low, high = 0.125 + np.array([-1.96, 1.96]) * gain.std() / 10**0.5
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("balanced accuracy of 10 test rows, ")
    assert [line[2:25].split("  ")[0] for line in said[1:]] == [
        "this net", "a linear model", "always the same"
    ]  # fmt: skip
    assert said[1].split()[-1] == "0.875"
    assert said[2].split("model")[1] == f"   0.750   no clear difference: {low:+.3f} to {high:+.3f}"
    assert "0.500" in said[3]


def test_a_regression_is_compared_by_r2(capsys):
    y, net = np.array([[1.0], [2], [0], [4], [5], [9]]), np.array([[0.5], [4], [5], [8]])
    data = rows_of(y, 2, ())
    compare(ended(data, net), ended(data, net + 9))
    scores = [r2_score(y[2:], p) for p in (net, net + 9, np.full((4, 1), 1.5))]
    said = capsys.readouterr().out
    assert re.findall(r"(?:net|model|same) +(\S+)", said)[-3:] == [
        f"{score:.3f}" for score in scores
    ]
    assert re.search(r"a linear model .* better: \+", said)


def test_a_left_out_column_comes_back_with_its_line_and_a_date_can_divide(begin):
    assert begin(f"{churn()} --look").code == 0
    path = Path("configs/churn.yaml")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if "- account" not in line)
    path.write_text(text.replace("# time_by: ", "time_by: "), encoding="utf-8")
    said = begin(f"fit --config {path} --run second --trainer.max_epochs 4")
    assert said.metrics["test/acc"] > 0.97
    key = json.loads(Path("runs/second/partition.json").read_text())["key"]
    assert key.startswith("times of signed, ")


def test_the_linear_model_is_as_good_as_ridge_regression(begin):
    assert begin(f"{houses()} --run first --epochs 12").code == 0
    data = DataModule(Table("houses.csv", "price", drop=["nr"]), Stratified())
    data.setup("fit")
    x = (data.rows.x - data.statistics.mean) / data.statistics.std
    x = np.column_stack([x[:, :2], np.eye(4)[data.rows.x[:, 2].astype(int)]])
    train, _, test = data.split[:3]
    expected = Ridge(1.0).fit(x[train], data.rows.y[train]).score(x[test], data.rows.y[test])
    tested = Path("runs/first-linear/metrics.csv").read_text().splitlines()
    found = dict(zip(tested[0].split(","), tested[-1].split(","), strict=True))
    assert float(found["test/r2"]) == pytest.approx(expected, abs=0.03)


def test_groups_dates_and_text_among_numbers_of_a_parquet_file(begin):
    rng = np.random.default_rng(0)
    polars, n = pytest.importorskip("polars"), 800
    patient = rng.permutation(np.repeat(np.arange(200) + 7000, 4))
    day = np.datetime64("2020-01-01") + rng.integers(0, 90, n).astype("timedelta64[D]")
    lab = ["<1" if v < -1 else f"{v:.0f}" for v in rng.normal(2, 1, n)]
    ward, dose = rng.integers(1, 6, n), rng.normal(size=n)
    columns = {"patient_id": patient, "when": day, "wardId": ward, "lab": lab, "dose": dose}
    state = np.where(dose + patient % 3 + rng.normal(size=n) > 1, "ill", "well")
    frame = polars.DataFrame({**columns, "no": [None] * n, "state": state})
    frame.write_parquet("ward.parquet")
    said = begin("ward.parquet --target state --epochs 1 --run first")
    assert said.code == 0, said.err
    [source] = yaml.safe_load(Path("configs/ward.yaml").read_text())["data"]["source"].values()
    assert source["types"] == {"wardId": "categorical", "lab": "categorical"}
    assert source["drop"] == ["no"]
    assert "      group_by: patient_id  # " in Path("configs/ward.yaml").read_text()
    key = json.loads(Path("runs/first/partition.json").read_text())["key"]
    assert key.startswith("groups of patient_id, ")
    statistics = json.loads(Path("runs/first/statistics.json").read_text())
    assert len(statistics["mean"]) == 4  # when, wardId, lab, dose


def test_images_of_many_sizes_and_one_that_is_none(begin, caplog):
    rng = np.random.default_rng(0)
    image = pytest.importorskip("PIL.Image")
    for i in range(24):
        folder = Path("photos", "ab"[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (100 + i, 130, 3), np.uint8) + np.uint8(100 * (i % 2))
        image.fromarray(pixels).save(folder / f"{i}.jpg")
    Path("photos/a/broken.jpg").write_text("none")
    said = begin("photos --look")
    assert said.code == 0
    assert "photos: 24 rgb images of 100 x 130 to 123 x 130 pixels" in said.out
    assert [line for line in caplog.messages if "broken.jpg" in line] == caplog.messages != []
    [source] = yaml.safe_load(Path("configs/photos.yaml").read_text())["data"]["source"].values()
    assert source == {"path": "photos", "resize": 64, "channels": "rgb", "skip_broken": True}
    assert not Path("runs").exists() or not [*Path("runs").iterdir()]


def test_rows_that_few_values_tell_apart_are_kept(begin):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 400), rng.integers(0, 9, 400)
    write("few.csv", "a,b,y", np.array(["p", "q"])[a], np.array([*"rstuvwxyz"])[b], a ^ (b == 3))
    said = begin("few.csv --target y --look")
    assert re.search(r"copies of other rows: 38\d, 0 of them with another target", said.out)
    assert "duplicates: allow" in Path("configs/few.yaml").read_text()


def test_without_a_target_it_shows_the_columns(begin):
    churn()
    said = begin("churn.csv")
    assert said.code == 2
    assert "  signed                    date         2021-01-0" in said.out
    assert said.out.count("\n") == 8
    assert said.err == (
        "error: churn.csv: which column is to be predicted? give --target gone, say\n"
    )
    assert not Path("configs").exists()


def test_nothing_that_is_there_is_written_over(begin):
    line = fraud()
    assert begin(f"{line} --look --out mine.yaml").code == 0
    text = Path("mine.yaml").read_text()
    assert text.startswith("# python -m src fit --config mine.yaml\n")
    again = begin(f"{line} --out mine.yaml")
    assert again.code == 2
    assert again.err.startswith("error: mine.yaml exists: python -m src fit --config")
    assert Path("mine.yaml").read_text() == text
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/config.yaml").touch()
    assert begin(f"{line} --run old").err.startswith("error: run folder runs/old exists: ")
    assert not Path("configs").exists()


def table(y, num_rows=60):
    return "a,y\n" + "".join(f"{i * 37 % 61 + 0.5},{y(i)}\n" for i in range(num_rows))


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (None, "--target y", "own.csv: No such file or directory"),
        ("", "--target y", "own.csv is empty"),
        ("a,y\n", "--target y", "own.csv has no rows"),
        (table(lambda i: i % 2), "--target yy", "no column `yy` (--target); did you mean y? there"),
        (table(lambda i: i % 2), "--traget y", "no option --traget; did you mean target? there"),
        (table(lambda i: "yes"), "--target y", "the target `y` is `yes` in every row"),
        (table(lambda i: f"t{i}"), "--target y", "target `y` has 60 different values in 60 rows: "),
        (table(lambda i: 2.5), "--target y", "target `y` has 1 different values in 60 rows: there"),
        (table(lambda i: i % 2 or ""), "--target y", "line 2: `y` (data.source.target) has no "),
        (table(lambda i: "abc"[(i > 0) + (i > 20)]), "--target y", "class 'a' has 1 of the 3 "),
        ("id,y\n" + "".join(f"{i},{i % 2}\n" for i in range(9)), "--target y", "no column to "),
        ({"x": np.zeros((9, 2))}, "", "own.npz has no `y`; there are: x"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9)}, "--target y", "--target y is for a table"),
        (["a/1.png", "b/1.png"], "", "has no image of the class `a` to train on"),
        (["1.png"], "", "own has 0 folders, not one for each class"),
    ],
)  # fmt: skip
def test_one_line_where_it_can_not_be(begin, content, words, says):
    name = (
        "own.npz"
        if isinstance(content, dict)
        else "own"
        if isinstance(content, list)
        else "own.csv"
    )
    if isinstance(content, dict):
        np.savez(name, **content)
    elif isinstance(content, list):
        for file in content:
            Path(name, file).parent.mkdir(parents=True, exist_ok=True)
            Path(name, file).write_text("none")
    elif content is not None:
        Path(name).write_text(content)
    said = begin(f"{name} {words}")
    assert said.code == 2
    lines = [line for line in said.err.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert not Path("configs").exists()
    assert not Path("runs").exists() or not [*Path("runs").iterdir()]


def test_an_id_is_known_by_its_name():
    assert all(map(IDS.search, ("id", "ID", "customer_id", "customerId", "PassengerID", "row.key")))
    assert not any(
        map(IDS.search, ("paid", "width", "valid", "price_index", "grid", "keyboard", "identity"))
    )
