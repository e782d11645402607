import time
from pathlib import Path

import pytest

from src.config import Config, fits, merge
from src.errors import readable

MODEL = "model:\n  Classifier:\n    net: MLP\n    optimizer: {AdamW: {lr: 1e-3}}\n"
FULL = MODEL + "data:\n  source: Digits\n"


def read(tmp_path: Path, *texts: str, flags: dict[str, str] | None = None) -> dict:
    config = Config()
    for i, text in enumerate(texts):
        path = tmp_path / f"c{i}.yaml"
        path.write_text(text)
        config.add_file(path)
    for flag, value in (flags or {}).items():
        config.add_flag(flag, value)
    return config.checked()


def test_short_and_long_forms_are_the_same(tmp_path):
    short = MODEL.replace("net: MLP", "net: {MLP: {hidden_dims: [8, 4], norm: batch}}")
    long = """
model:
  class_path: Classifier
  init_args:
    net:
      class_path: src.nets.MLP
      init_args: {hidden_dims: [8, 4], norm: batch}
    optimizer:
      class_path: torch.optim.AdamW
      init_args:
        lr: 1.0e-3
"""
    one, *others = (read(tmp_path, text + "data: {source: Digits}") for text in (short, long))
    assert others == [one]
    assert one["model"]["init_args"]["net"] == {
        "class_path": "src.nets.mlp.MLP",
        "init_args": {"hidden_dims": [8, 4], "norm": "batch"},
    }


def test_a_flag_equals_the_same_line_in_a_file(tmp_path):
    flags = {"model.net.hidden_dims": "[8,4]", "data.batch_size": "7", "model.optimizer.lr": "1e-2"}
    tree = read(tmp_path, FULL, flags=flags)
    model = tree["model"]["init_args"]
    assert model["net"]["init_args"] == {"hidden_dims": [8, 4]}
    assert model["optimizer"]["init_args"] == {"lr": 0.01}
    assert tree["data"]["batch_size"] == 7


def test_another_class_drops_the_options_of_the_first(tmp_path):
    first = FULL.replace("{lr: 1e-3}", "{lr: 1e-3, weight_decay: 0.3}")
    second = "model: {optimizer: {SGD: {lr: 0.1}}}"
    for tree in (
        read(tmp_path, first, second),
        read(tmp_path, first, flags={"model.optimizer": "SGD", "model.optimizer.lr": "0.1"}),
    ):
        assert tree["model"]["init_args"]["optimizer"] == {
            "class_path": "torch.optim.sgd.SGD",
            "init_args": {"lr": 0.1},
        }
    same = read(tmp_path, first, flags={"model.optimizer": "AdamW", "model.optimizer.lr": "0.1"})
    assert same["model"]["init_args"]["optimizer"]["init_args"] == {"lr": 0.1, "weight_decay": 0.3}


def test_another_model_keeps_the_net_and_the_optimizer(tmp_path):
    text = FULL.replace("net: MLP", "net: {MLP: {norm: batch}}\n    label_smoothing: 0.1")
    tree = read(tmp_path, text, flags={"model": "Regressor"})
    args = tree["model"]["init_args"]
    assert args.keys() == {"net", "optimizer"}
    assert args["net"]["init_args"] == {"norm": "batch"}


def test_bases_come_first_and_are_found_beside_the_file(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "deep.yaml").write_text("data: {source: Digits, batch_size: 1}\n")
    (tmp_path / "parts" / "part.yaml").write_text("base: deep.yaml\n" + MODEL)
    tree = read(tmp_path, "base: [parts/part.yaml]\ndata: {batch_size: 2}\n")
    assert tree["data"]["batch_size"] == 2
    assert tree["data"]["source"]["class_path"] == "src.data.sources.bundled.Digits"
    text = "base: parts/part.yaml\ndata:\n  batch_size: two\n"
    with pytest.raises(ValueError, match=r"c0.yaml:3: `data.batch_size` is \"two\""):
        read(tmp_path, text)
    (tmp_path / "arrays.yaml").write_text("data: {source: {Arrays: {path: t}}}\n")
    tree = read(tmp_path, f"base: arrays.yaml\n{MODEL}data: {{source: {{path: 2020}}}}\n")
    assert tree["data"]["source"]["init_args"]["path"] == "2020"
    (tmp_path / "round.yaml").write_text("base: round.yaml\n")
    with pytest.raises(ValueError, match=r"round.yaml: `base` goes round in a circle"):
        Config().add_file(tmp_path / "round.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1e3", 1e3), ("no", "no"), ("null", None), ("3", 3), ("-.5", -0.5),
     ("true", True), (".inf", float("inf")), ("1.", 1.0), ("on", "on")],
)  # fmt: skip
def test_scalars(text, value):
    got = Config()._read(f"a: {text}", "s.yaml")["a"]
    assert got == value
    assert type(got) is type(value)


def test_a_hash_in_a_flag_is_no_comment(tmp_path):
    flags = {"data.source": "Arrays", "data.source.path": "a #1.csv"}
    args = read(tmp_path, MODEL, flags=flags)["data"]["source"]["init_args"]
    assert args["path"] == "a #1.csv"


def test_text_options_keep_what_looks_like_a_number(tmp_path):
    for text, value in {"007": "007", "7": "7", "1e3": "1e3", "no": "no", "null": None}.items():
        flags = {"data.predict_path": text}
        assert read(tmp_path, FULL, flags=flags)["data"]["predict_path"] == value
        given = read(tmp_path, FULL + f"  predict_path: {text}\n")
        assert given["data"]["predict_path"] == value


def test_each_item_of_a_list_may_be_a_text(tmp_path):
    table = FULL.replace(
        "source: Digits", "source: {Table: {path: a, target: b, drop: [id, 2020]}}"
    )
    drop = read(tmp_path, table)["data"]["source"]["init_args"]["drop"]
    assert drop == ["id", "2020"]
    flags = {"data.source.drop": "[007, 1e3, x]", "model.net.hidden_dims": "[3, 4]"}
    tree = read(tmp_path, table, flags=flags)
    assert tree["data"]["source"]["init_args"]["drop"] == ["007", "1e3", "x"]
    assert tree["model"]["init_args"]["net"]["init_args"]["hidden_dims"] == [3, 4]


def test_named_callbacks_can_be_changed_and_taken_away(tmp_path):
    text = FULL + "callbacks:\n  stop: {EarlyStopping: {patience: 3}}\n  keep: Checkpoint\n"
    tree = read(tmp_path, text, flags={"callbacks.stop.patience": "7", "callbacks.keep": "null"})
    assert tree["callbacks"]["stop"]["init_args"] == {"patience": 7}
    assert tree["callbacks"]["keep"] is None


def test_a_callback_may_be_named_as_its_class(tmp_path):
    for text in ("{EarlyStopping: {patience: 3}}", "{EarlyStopping: {}}"):
        tree = read(
            tmp_path, FULL + f"callbacks: {text}", flags={"callbacks.EarlyStopping.patience": "7"}
        )
        assert tree["callbacks"]["EarlyStopping"] == {
            "class_path": "src.callbacks.checkpoint.EarlyStopping",
            "init_args": {"patience": 7},
        }


def test_a_class_named_by_its_path_may_have_its_options_below(tmp_path):
    text = (
        FULL + "callbacks: {mine: {lightning.pytorch.callbacks.Timer: {duration: '00:00:01:00'}}}"
    )
    mine = read(tmp_path, text)["callbacks"]["mine"]
    path = "lightning.pytorch.callbacks.timer.Timer"
    assert mine == {"class_path": path, "init_args": {"duration": "00:00:01:00"}}


def test_options_beside_the_name_of_their_class_are_its_own(tmp_path):
    text = FULL.replace("net: MLP", "net:\n      MLP:\n      hidden_dims: [3]")
    net = read(tmp_path, text)["model"]["init_args"]["net"]
    assert net == {"class_path": "src.nets.mlp.MLP", "init_args": {"hidden_dims": [3]}}


def test_a_section_whose_lines_are_comments_says_nothing(tmp_path):
    tree = read(tmp_path, FULL + "trainer:\n  # max_epochs: 3\ncallbacks:\n")
    assert tree == read(tmp_path, FULL)
    assert tree["callbacks"].keys() == {"checkpoint"}


def test_lists_of_classes(tmp_path):
    text = FULL.replace("net: MLP", "net: MLP\n    augment: [Flip, {Crop: {pad: 2}}]")
    got = read(tmp_path, text)["model"]["init_args"]["augment"]
    assert [a["class_path"].rpartition(".")[2] for a in got] == ["Flip", "Crop"]
    got = read(tmp_path, FULL, flags={"model.augment": "[{Cutout: {size: 3}}]"})
    assert got["model"]["init_args"]["augment"][0]["init_args"] == {"size": 3}


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    for here, before in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{here}: &{here} [{','.join([f'*{before}'] * 9)}]")
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"c0.yaml: more than 10,000 values: too many aliases"):
        read(tmp_path, "\n".join(lines))
    assert time.perf_counter() - start < 1
    with pytest.raises(ValueError, match=r"c0.yaml: not YAML: nested without an end$"):
        read(tmp_path, "a: &a [*a]")


def test_yaml_runs_no_code(tmp_path):
    with pytest.raises(
        ValueError, match=r"c0.yaml:1: tag:yaml.org,2002:python/object/apply:os.system is not"
    ):
        read(tmp_path, "data: !!python/object/apply:os.system ['true']")


def test_merge_keeps_what_the_new_tree_does_not_say():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert merge({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_types():
    assert fits(3, int)
    assert not fits(3.5, int)
    assert not fits("abc", int)
    assert fits([1, 2], list[int])
    assert not fits([1, 2.5], list[int])
    assert readable(list[int] | None) == "a list (an integer, ...) or null"
    assert readable(tuple[float, float]) == "a list (a number, a number)"
    assert fits(None, int | None)
    assert not fits(None, int)
    assert not fits([None], list[int])


def test_an_option_with_a_capital_is_no_class(tmp_path):
    flags = {"model.scheduler": "CosineAnnealingLR", "model.scheduler.T_max": "5"}
    model = read(tmp_path, FULL, flags=flags)["model"]["init_args"]
    assert model["scheduler"] == {
        "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "init_args": {"T_max": 5},
    }
    text = FULL.replace("net: MLP", "net: MLP\n    scheduler: {CosineAnnealingLR: {T_max: 5}}")
    assert read(tmp_path, text)["model"]["init_args"] == model


def test_one_class_where_a_list_is_taken(tmp_path):
    augment = read(tmp_path, FULL, flags={"model.augment": "Flip"})["model"]["init_args"]["augment"]
    assert [a["class_path"].rpartition(".")[2] for a in augment] == ["Flip"]
    [logger] = read(tmp_path, FULL, flags={"trainer.logger": "MetricsCsv"})["trainer"]["logger"]
    assert logger["class_path"].endswith(".MetricsCsv")
    assert read(tmp_path, FULL, flags={"trainer.logger": "false"})["trainer"]["logger"] is False


def test_flags_below_an_option_and_numbers_as_text(tmp_path):
    flags = {
        "data.source": "Table",
        "data.source.path": "7",
        "data.source.target": "1e3",
        "data.source.types.Age": "numeric",
    }
    source = read(tmp_path, FULL, flags=flags)["data"]["source"]["init_args"]
    assert source == {"path": "7", "target": "1e3", "types": {"Age": "numeric"}}


def test_a_class_by_its_import_path_must_be_of_the_right_kind(tmp_path):
    net = read(tmp_path, FULL, flags={"model.net": "src.nets.ConvNet"})["model"]["init_args"]["net"]
    assert net["class_path"] == "src.nets.convnet.ConvNet"
    with pytest.raises(ValueError, match=r'`model.net`: "src.nets.net.activation_of" is no Net;'):
        read(tmp_path, FULL, flags={"model.net": "src.nets.net.activation_of"})
