"""The lessons: a function as a source, pulses that add up to it, and what each lesson finds."""

import csv
import re

import numpy as np
import pytest
import torch
import yaml

from src.cli import run
from src.data.sources import Function
from src.nets import MLP
from tests.conftest import ROOT, refused

pytest.importorskip("src.lessons")
F = "cos(2*pi*x) + 0.5*cos(3*pi*x)"


def test_a_function_has_the_values_of_its_expression():
    rows = Function("-x**2 + maximum(sin(pi*y), 0.5) % 2", low=-1, high=3, num_rows=500).load()
    x, y = rows.x.astype(float).T
    assert rows.x.shape == (500, 2)
    assert rows.y == pytest.approx(-(x**2) + np.maximum(np.sin(np.pi * y), 0.5) % 2, abs=1e-5)
    for values in (x, y):  # each of 500 parts of the range has one
        assert sorted(np.floor((values + 1) / 4 * 500)) == list(range(500))
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2
    assert not (np.diff(x) > 0).all()


def test_a_function_of_one_variable_with_noise():
    clean, noisy, other = (
        Function("2", noise=n, seed=s).load() for n, s in ((0, 0), (3, 0), (3, 1))
    )
    assert clean.x.shape == (4000, 1)
    assert (clean.y == 2).all()
    assert noisy.y.std() == pytest.approx(3, rel=0.05)
    assert not np.array_equal(noisy.y, other.y)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sin(2*pi*x", "is 'sin(2*pi*x', no expression"),
        ("x; x", "no expression"),
        ("(" * 300 + "x" + ")" * 300, "no expression"),
        (f"1{'0' * 400}", "no expression"),
        ("z + 1", "has 'z', which is not known"),
        ("open('f')", "has \"open('f')\""),
        ("x.__class__", "has 'x.__class__'"),
        ("__import__('os').abort()", "which is not known"),
        ("sin(x, x)", "has 'sin(x, x)'"),  # numpy would write to the second
        ("sin(x, out=x)", "which is not known"),
        ("load('f')", "which is not known"),
        ("x if x else y", "which is not known"),
    ],
)
def test_an_expression_says_nothing_but_arithmetic(expression, said):
    line = refused(lambda: Function(expression))
    assert line.startswith("`data.source.expression` ")
    assert said in line


def test_a_value_that_is_not_finite_is_refused():
    for expression in ("log(x)", "9**9**9 + x"):
        assert "is not finite at -" in refused(Function(expression, low=-1).load)


def constructed(activation: str, init: str, width: int) -> float:
    """The largest error of pulses that add up to F."""
    rows = Function(F, num_rows=8000).load()
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)[:, None]
    net = MLP((1,), 1, (), (width,), activation, init=init)
    net.construct(x[::2], y[::2])
    with torch.no_grad():
        return (net(x[1::2]) - y[1::2]).abs().max().item()


@pytest.mark.parametrize(
    ("activation", "init", "slope"),
    [("sigmoid", "pulses", -1), ("relu", "pulses", -1), ("relu", "hats", -2)],
)
def test_the_error_of_pulses_falls_with_their_number_as_theory_says(activation, init, slope):
    widths = (32, 64, 128, 256)
    errors = [constructed(activation, init, width) for width in widths]
    assert np.polyfit(np.log(widths), np.log(errors), 1)[0] == pytest.approx(slope, abs=0.06)


def test_hats_are_the_function_at_their_middles_and_straight_between():
    x = torch.linspace(-1, 1, 401)[:, None]
    net = MLP((1,), 1, (), (20,), init="hats")
    net.construct(torch.cat([x[:1], x]), torch.cat([x[:1], x]) ** 2)  # the least is there twice
    assert all(p.isfinite().all() for p in net.parameters())
    net.construct(x, x**2)
    middles = torch.linspace(-1, 1, 5)
    with torch.no_grad():
        assert net(middles[:, None])[:, 0] == pytest.approx((middles**2).numpy(), abs=1e-5)
        assert net(torch.tensor([[0.25], [0.75]]))[:, 0] == pytest.approx([0.125, 0.625], abs=1e-5)
        assert net(torch.tensor([[-1.2], [1.2]]))[:, 0] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh", "init": "pulses"},
        {"activation": "sigmoid", "init": "hats"},
        {"hidden_dims": (30,)},
        {"hidden_dims": (4,)},
        {"hidden_dims": (8, 8)},
        {"hidden_dims": ()},
        {"norm": "batch"},
        {"in_shape": (2,)},
        {"out_dim": 2},
        {"num_categories": (3,)},
    ],
)
def test_an_init_that_the_net_cannot_have(options):
    net = {"in_shape": (1,), "out_dim": 1, "hidden_dims": (8,), "init": "hats"}
    assert "`model.net.init`" in refused(lambda: MLP(**{**net, **options}))


def fits_here(jobs):
    """`fits` in this process, one after the other, which spares the start of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FULGURITE_RUN_DIR")
        return [run("fit", ["--trainer.logger", "[MetricsCsv]", *job]) for job in jobs]


@pytest.fixture
def lesson(go, monkeypatch):
    """Runs a lesson whose own fits are in this process."""
    monkeypatch.setattr("src.lessons.again.fits", fits_here)

    def learnt(name, *words):
        said = go(f"fit --config configs/lessons/{name}.yaml", *words)
        assert said.code == 0, said.err
        lines = (line.split() for line in said.out.splitlines() if line.startswith("lesson/"))
        found = {key.removeprefix("lesson/"): float(value) for key, value in lines}
        header = (ROOT / f"configs/lessons/{name}.yaml").read_text(encoding="utf-8")
        claimed = re.findall(r"lesson/([a-z_]+[a-z])", header)  # `rmse_2`, say, needs that net
        assert all(any(key.startswith(name) for key in found) for name in claimed)
        picture = said.folder / "plots" / name
        assert picture.with_suffix(".png").stat().st_size > 20_000
        assert picture.with_suffix(".svg").is_file()
        return said, found

    return learnt


def test_a_good_net_exists_and_training_misses_it(lesson):
    option = "--callbacks.lesson"
    words = (f"{option}.widths", "[32,64]", f"{option}.seeds", 1, "--trainer.max_epochs", 3)
    said, slopes = lesson("approximation", *words, "--data.source.num_rows", 2000)
    assert slopes["slope_sigmoid_pulses"] == pytest.approx(-1, abs=0.1)
    assert slopes["slope_relu_pulses"] == pytest.approx(-1, abs=0.1)
    assert slopes["slope_relu_hats"] == pytest.approx(-2, abs=0.1)
    assert slopes["slope_trained_from_random"] > -0.5
    assert len([*(said.folder / "runs").iterdir()]) == 10


def test_a_deep_net_learns_folds_that_a_shallow_one_does_not(lesson):
    words = ("--callbacks.lesson.nets", "[[288],[12,12,13,12,13,12]]", "--trainer.max_epochs", 35)
    words += ("--callbacks.lesson.folds", "[8]", "--callbacks.lesson.seeds", 1)
    _, found = lesson("depth", *words)
    assert found["rmse_1"] > 0.15
    assert found["ratio"] == pytest.approx(found["rmse_1"] / found["rmse_6"], rel=1e-3)
    assert found["ratio"] > 5


def test_nets_of_the_lesson_on_depth_have_as_many_parameters():
    config = yaml.safe_load((ROOT / "configs/lessons/depth.yaml").read_text(encoding="utf-8"))
    [options] = config["callbacks"]["lesson"].values()
    sizes = [
        sum(p.numel() for p in MLP((1,), 1, (), dims).parameters()) for dims in options["nets"]
    ]
    assert max(sizes) <= 1.02 * min(sizes)


def test_the_design_loop_keeps_what_is_best_and_tests_it_once(lesson):
    option = "--callbacks.lesson"
    words = (f"{option}.layers", "[1,2]", f"{option}.units", "[4,16]", f"{option}.seeds", 2)
    words += (f"{option}.activations", "[tanh,tanh relu]", "--data.source", "Wine")
    said, found = lesson("design_loop", *words, "--trainer.max_epochs", 4)
    best: dict[str, list[float]] = {}
    tests = {}
    for folder in sorted((said.folder / "runs").iterdir()):
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [*csv.DictReader(file)]
        name, _, seed = folder.name.rpartition("-")
        best.setdefault(name, []).append(max(float(r["val/acc"]) for r in rows if r["val/acc"]))
        tests[name, seed] = [float(r["test/acc"]) for r in rows if r.get("test/acc")]
    means = {name: np.mean(values) for name, values in best.items()}
    layers = max((1, 2), key=lambda n: means[f"{n}x4-tanh"])
    units = max((4, 16), key=lambda n: means[f"{layers}x{n}-tanh"])
    chosen = max(("tanh", "tanh-relu"), key=lambda n: means[f"{layers}x{units}-{n}"])
    chosen = f"{layers}x{units}-{chosen}"
    assert len(means) == 4
    assert found["first"] == pytest.approx(means["1x4-tanh"], rel=1e-3)
    assert found["chosen"] == pytest.approx(means[chosen], rel=1e-3)
    tested = {name for (name, _), values in tests.items() if values}
    assert tested == {chosen}
    assert found["test"] == pytest.approx(np.mean([tests[chosen, s] for s in "01"]), rel=1e-3)
    assert "test/acc" not in (said.folder / "metrics.csv").read_text()  # nor of the run itself


def test_a_lesson_is_not_given_in_a_quick_look(go):
    said = go("fit --config configs/lessons/depth.yaml --trainer.fast_dev_run true")
    assert said.code == 0
    assert "lesson/" not in said.out
