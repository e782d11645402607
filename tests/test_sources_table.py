# ruff: noqa: E501 (a hostile table a line)
import datetime as dt
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from src.data.rows import Signature
from src.data.sources.table import Table, read_table
from tests.conftest import refused

CSV = """age,city,income,bought
31,Rome,1000.5,yes
,Oslo,NA,no
45,?,2000,yes
28,Rome,-0.0,no
"""


@pytest.fixture
def save(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def same(a, b):
    return np.array_equal(a, b, equal_nan=True)


def test_columns_of_both_kinds_with_missing_values(save):
    rows = Table(save(CSV), "bought").load()
    nan = np.nan
    assert same(rows.x, np.float32([[31, 2, 1000.5], [nan, 1, nan], [45, 0, 2000], [28, 2, 0]]))
    assert rows.x.dtype == np.float32
    assert rows.y.tolist() == [1, 0, 1, 0]
    assert rows.y.dtype == np.int64
    assert rows.signature == Signature(
        (3,),
        "float32",
        ("no", "yes"),
        ("bought",),
        ("age", "city", "income"),
        {"city": ("Oslo", "Rome")},
    )
    assert rows.signature.num_categories == (0, 3, 0)
    assert rows.ids.dtype == np.uint64


@pytest.mark.parametrize("marker", ["", "NA", "n/a", "NaN", "null", "?", "  ", '""', "#N/A"])
def test_missing_markers(save, marker):
    rows = Table(save(f"a,b,y\n1,u,p\n{marker},{marker},q\n3,v,p\n"), "y").load()
    assert same(rows.x, np.float32([[1, 1], [np.nan, 0], [3, 2]]))


@pytest.mark.parametrize(
    "text",
    [
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        CSV.replace(",", ";").replace(".", ","),
        CSV.replace(",", "\t"),
        CSV.replace(",", " | "),
        CSV.rstrip("\n"),
        CSV.replace("\n45", "\n\n45") + "\n\n",
        "\n" + CSV,
        CSV.replace("Rome", '"Rome"').replace("31,", '"31",'),
        CSV.replace("Oslo", "Oslo "),
        CSV.replace("2000,", "2000.0,").replace("28", "2.8e1"),
    ],
)
def test_dialects_give_the_same_rows(save, text):
    rows, expected = Table(save(text), "bought").load(), Table(save(CSV, "b.csv"), "bought").load()
    assert same(rows.x, expected.x)
    assert np.array_equal(rows.y, expected.y)
    assert np.array_equal(rows.ids, expected.ids)
    assert rows.signature == expected.signature


def test_quoted_commas_quotes_and_lines(save):
    text = 'a,"b, c",y\n1,"x, y",p\n2,"he said ""no""",q\n3,"two\nlines",p\n'
    rows = Table(save(text), "y").load()
    assert rows.signature.feature_names == ("a", "b, c")
    assert rows.signature.categories["b, c"] == ('he said "no"', "two\nlines", "x, y")
    assert rows.x[:, 1].tolist() == [3, 1, 2]


def test_parquet_equals_csv(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "a": rng.normal(size=50) * 10.0 ** rng.integers(-9, 9, 50),
            "b": rng.normal(size=50).astype(np.float32),
            "c": [None if i % 7 == 0 else float("nan") if i % 11 == 0 else i for i in range(50)],
            "d": pl.Series([f"k{i % 5}" for i in range(50)], dtype=pl.Categorical),
            "e": [bool(i % 3) for i in range(50)],
            "f": [dt.date(2024, 1, 1) + dt.timedelta(days=i) for i in range(50)],
            "g": [dt.datetime(2024, 1, 1, i % 24, tzinfo=dt.UTC) for i in range(50)],
            "y": [float(i % 2) for i in range(50)],
        },
        strict=False,
    )
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.csv")
    rows, twin = (Table(str(tmp_path / f"a.{kind}"), "y").load() for kind in ("parquet", "csv"))
    assert rows.x.dtype == np.float64  # hours of a month need it
    assert same(rows.x[:, 0], frame["a"].to_numpy())
    assert np.isnan(rows.x[:, 2]).sum() == frame["c"].null_count() + frame["c"].is_nan().sum()
    assert np.array_equal(rows.x[:, 5], 1704067200 + 86400 * np.arange(50))
    assert rows.signature.categories["d"] == ("k0", "k1", "k2", "k3", "k4")
    assert rows.signature.categories["e"] == ("false", "true")
    assert rows.signature.class_names == ("0", "1")
    assert same(rows.x, twin.x)
    assert np.array_equal(rows.ids, twin.ids)
    assert rows.signature == twin.signature


def test_dates_are_seconds(save):
    text = "when,y\n1970-01-01,a\n1970-01-02 00:00:01,b\n1970-01-01T01:00+01:00,a\n,b\n"
    rows = Table(save(text), "y").load()
    assert same(rows.x[:, 0], np.float32([0, 86401, 0, np.nan]))


def test_types_can_be_declared(save):
    path = save("zip,code,y\n00501,7,p\n10,x,q\n9,7,p\n")
    rows = Table(path, "y", types={"zip": "categorical", "code": "categorical"}).load()
    assert rows.signature.categories == {"zip": ("00501", "10", "9"), "code": ("7", "x")}
    assert rows.x.tolist() == [[1, 1], [2, 2], [3, 1]]


def test_a_declared_column_may_be_empty(save):
    path = save("a,b,y\n1,,u\n2,,v\n")
    assert Table(path, "y", types={"b": "categorical"}).load().x[:, 1].tolist() == [0, 0]


def test_left_out_columns(save):
    assert Table(save(CSV), "bought", drop=["city"]).load().signature.categories == {}
    unnamed = Table(save(CSV.replace("age", "")), "bought")
    assert unnamed.load().signature.feature_names == ("city", "income")


def test_float64_only_where_float32_would_lose(save):
    def table(offset, step):
        lines = [f"{offset + step * i},{i % 2}" for i in range(50)]
        return Table(save("\n".join(["a,y", *lines])), "y").load().x

    assert table(1e6, 1).dtype == np.float32
    fine = table(1e6, 1e-3)
    assert fine.dtype == np.float64
    assert fine[7, 0] == 1e6 + 1e-3 * 7


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["10", "9", "9", "10"], "auto", ("9", "10")),
        (["1.0", "0.0", "1.0", "0.0"], "auto", ("0", "1")),
        (["a", "b", "a", "b"], "auto", ("a", "b")),
        (["1", "2", "3", "4"], "auto", ()),
        (["0.5", "1", "0.5", "1"], "auto", ()),
        (["0.5", "1", "0.5", "1"], "classification", ("0.5", "1")),
        (["1", "2", "1", "2"], "regression", ()),
    ],
)
def test_task(save, values, task, classes):
    path = save("a,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    rows = Table(path, "y", task).load()
    assert rows.signature.class_names == classes
    if classes:
        assert [classes[code] for code in rows.y] == [re.sub(r"\.0$", "", v) for v in values]
    else:
        assert rows.y.dtype == np.float32
        assert rows.y.tolist() == [float(v) for v in values]


def test_ids_follow_the_content_alone(save):
    rows = Table(save(CSV), "bought").load()
    assert len(set(rows.ids)) == 4
    assert rows.ids[0] == 0x3CCB0280A6591A3B  # of any version: kept partitions hang on it
    header, *lines = CSV.splitlines()
    backwards = Table(save("\n".join([header, *lines[::-1]])), "bought").load()
    assert np.array_equal(backwards.ids, rows.ids[::-1])
    swapped = "\n".join(",".join(line.split(",")[::-1]) for line in CSV.splitlines())
    assert np.array_equal(Table(save(swapped), "bought").load().ids, rows.ids)
    labels = CSV.replace("yes", "maybe")
    assert np.array_equal(Table(save(labels), "bought").load().ids, rows.ids)
    crossed = Table(save("a,b,y\n1,2,p\n2,1,q\n,1,p\n1,,q\n"), "y").load()
    assert len(set(crossed.ids)) == 4


def test_growth_moves_no_id_and_no_code(save):
    before = Table(save(CSV), "bought").load()
    grown = CSV + "50,Bern,3000,yes\n"
    fresh = Table(save(grown), "bought").load()
    assert np.array_equal(fresh.ids[:4], before.ids)
    assert fresh.signature.categories == {"city": ("Bern", "Oslo", "Rome")}
    trained = Table(save(grown), "bought").load(before.signature)
    assert trained.signature == before.signature
    assert same(trained.x[:4], before.x)
    assert trained.x[4].tolist() == [50, 0, 3000]
    assert np.array_equal(trained.ids, fresh.ids)


def test_groups_and_times_are_no_features(save):
    path = save("who,when,a,y\np1,2024-01-02,1,u\np2,2024-01-01,2,v\np1,2023-12-31,3,u\n")
    source = Table(path, "y")
    source.group_by, source.time_by = "who", "when"
    rows = source.load()
    assert rows.signature.feature_names == ("a",)
    assert rows.groups.tolist() == ["p1", "p2", "p1"]
    assert np.argsort(rows.times).tolist() == [2, 1, 0]
    source.group_by = "whom"
    assert refused(source.load) == (
        f"{path} has no column `whom` (data.partition.group_by); did you mean who? "
        "there are: who, when, a, y"
    )


def test_new_rows(save):
    signature = Table(save(CSV), "bought").load().signature
    new = Path(save("extra,income,city,age,bought\n1,5,Paris,6,\n,7,Rome,,\n,,,,\n\n", "new.csv"))
    assert same(
        read_table(new, signature), np.float32([[6, 0, 5], [np.nan, 2, 7], [np.nan, 0, np.nan]])
    )
    new.write_text("city,age,income\n,,\n")  # a request, say: no value at all
    assert same(read_table(new, signature), np.float32([[np.nan, 0, np.nan]]))
    for text, message in {
        "age,city\n1,Rome\n": "has no column `income` (a feature); there are: age, city",
        "age,city,incomes\n1,Rome,3\n": "has no column `income` (a feature); did you mean incomes? "
        "there are: age, city, incomes",
    }.items():
        assert refused(lambda t=text: read_table(Path(save(t, "new.csv")), signature)) == (
            f"{new} {message}"
        )
    save("age,city,income\n1,Rome,3\nold,Rome,4\n", "new.csv")
    assert refused(lambda: read_table(new, signature)) == (
        f"{new}, line 3: `old` in the numeric column `age` is no finite number and no date: mend or "
        "empty the cell, or train with the column as categorical (`data.source.types`; of the "
        "target, `data.source.task`)"
    )
    signals = Signature((1, 40), "float32", ("a", "b"))
    assert refused(lambda: read_table(new, signals)) == (
        f"{new}: the model takes rows of shape (1, 40), not of a table: give it .npz, .npy or images"
    )


def test_a_class_that_the_model_does_not_know(save):
    signature = Table(save(CSV), "bought").load().signature
    path = save(CSV + "1,Rome,2,maybe\n")
    assert refused(lambda: Table(path, "bought").load(signature)) == (
        f"{path}: the target `bought` has the class `maybe`, new to the model; there are: no, yes"
    )


WORDS = "".join(f"{i},w{i},{i % 2}\n" for i in range(30))
MEND = "is no finite number and no date: mend or empty the cell, or train with the column as categorical (`data.source.types`; of the target, `data.source.task`)"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "{} is empty"),
        ("\n\n", {}, "{} is empty"),
        ("a,y\n", {}, "{} has no rows"),
        ("a,y\n\n\n", {}, "{} has no rows"),
        ("a,y\n1,2\n", {"target": "z"}, "{} has no column `z` (data.source.target); there are: a, y"),
        ("a,label\n1,2\n", {"target": "labl"}, "{} has no column `labl` (data.source.target); did you mean label? there are: a, label"),
        ("a,b,y\n1,,u\n2,NA,v\n", {}, "{}: column `b` is empty: leave it out, --data.source.drop [b], or keep it, --data.source.types.b categorical"),
        ("a,y\n12,u\na,v\n13,u\n", {}, f"{{}}, line 3: `a` in the numeric column `a` {MEND}"),
        ("a,y\nx,u\ny,v\n1,u\n", {"types": {"a": "numeric"}}, f"{{}}, line 2: `x` in the numeric column `a` {MEND}"),
        ('b,a,y\nu,1,u\n"p\nq",2,v\n\nv,3 kg,u\n', {}, f"{{}}, line 6: `3 kg` in the numeric column `a` {MEND}"),
        ("a,y\n1,u\ninf,v\n", {}, f"{{}}, line 3: `inf` in the numeric column `a` {MEND}"),
        ("a,b,a,y\n1,2,3,u\n", {}, "{}: two columns are named `a`: rename one"),
        ("a,b,y\n1,2,u\n1,v\n", {}, "{}, line 3: 2 cells, but the header has 3"),
        ("a,b,y\n1,2,u\n\n1,2,v,w\n", {}, "{}, line 4: 4 cells, but the header has 3"),
        ('a,b,y\n1,"open,u\n' + "1,2,u\n" * 30_000, {}, "{}, line 2: field larger than field limit (131072): is a quote left open?"),
        ('a,y\n1,u\n2,u\n"no\nnumber",v\n', {}, f"{{}}, line 4: `no number` in the numeric column `a` {MEND}"),
        ("a,y\n1,u\n2,u\n", {}, "{}: the target `y` is `u` in every row: a classification needs two classes or more"),
        ("a,y\n1,\n2,u\n3,NA\n", {}, "{}, line 2: `y` (data.source.target) has no value, the first of 2 such rows: fill the cells or delete the rows"),
        ("a,y\n1,1.5\n2,2.5\n3,x\n", {}, f"{{}}, line 4: `x` in the numeric column `y` {MEND}"),
        ("a,y\n1,u\n2,v\n", {"task": "regression"}, f"{{}}, line 2: `u` in the numeric column `y` {MEND}"),
        ("a,y\n1,u\n2,v\n", {"types": {"aa": "numeric"}}, "{} has no column `aa` (data.source.types); did you mean a? there are: a, y"),
        ("a,y\n1,u\n2,v\n", {"drop": ["b"]}, "{} has no column `b` (data.source.drop); there are: a, y"),
        ("y\nu\nv\n", {}, "{} has no column to learn from beside the target `y`"),
        ("a,name,y\n" + WORDS, {}, "{}: column `name` has 30 values, 30 different texts: leave it out, --data.source.drop [name], or keep it, --data.source.types.name categorical"),
        (b"a,y\n1,\xe9\n", {}, "{} is neither text in UTF-8 nor .parquet: save it as one"),
        ("a,y\n1,100000000.5\n2,100000000.6\n3,100000000.7\n", {}, "{}: the target `y` varies by less than float32 can hold: subtract a constant from it"),
    ],
)  # fmt: skip
def test_hostile_tables(save, text, options, message):
    path = save(text)
    assert refused(lambda: Table(**{"path": path, "target": "y", **options}).load()) == (
        message.format(path)
    )


def test_files_that_are_no_tables(save, tmp_path):
    missing = tmp_path / "no.csv"
    assert str(missing) in refused(Table(str(missing), "y").load)
    path = save("a,y\n1,u\n", "text.parquet")
    assert refused(Table(path, "y").load).startswith(f"{path} can't be read as Parquet: ")
    nested = tmp_path / "nested.parquet"
    pl.DataFrame({"a": [[1, 2]], "y": [1]}).write_parquet(nested)
    assert refused(Table(str(nested), "y").load).startswith(f"{nested} can't be read as Parquet: ")


def test_texts_in_each_row_are_kept_if_declared(save):
    rows = Table(save("a,name,y\n" + WORDS), "y", types={"name": "categorical"}).load()
    assert len(rows.signature.categories["name"]) == 30


def test_kept_boundaries_lie_beside_the_data(tmp_path):
    source = Table(str(tmp_path / "a.csv"), "y")
    assert source.keep_path() == tmp_path / "a.csv.partition.json"
