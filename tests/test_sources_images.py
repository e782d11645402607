import os
import re
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from src.data.partition import Stratified
from src.data.rows import FREE, Signature, Source
from src.data.sources import images
from src.data.sources.images import Images, read_images

SPLIT_FILES = (
    *("train/a/1", "train/b/1", "val/a/1", "val/b/1"),
    *("test/a/1", "test/b/1", "test/b/2"),
)
SUFFIXES = " ".join(images.SUFFIXES)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three grey images 4x5 of cats, two of dogs."""
    for i, name in enumerate(
        ["cat/b.png", "cat/a.PNG", "cat/deep/c.bmp", "dog/1.png", "dog/2.gif"]
    ):
        write(tmp_path / "pets" / name, noise(4, 5, seed=i))
    return tmp_path / "pets"


def load(path, *args, signature=None, **options):
    source = Images(str(path), *args, **options)
    source.prepare()
    return source.load(signature)


def error_of(call, *args, kind=ValueError, **options):
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cache_files(folder):
    return sorted((folder.parent / ".fulgurite_cache").iterdir())


def pixels_of(tmp_path, image, name="x.png", **options):
    """What `Images` makes of one image, as `(C, H, W)`."""
    for class_name in "ab":
        (tmp_path / "d" / class_name).mkdir(parents=True)
        image.save(tmp_path / "d" / class_name / name, **options)
    return load(tmp_path / "d").x[0]


def test_a_folder_a_class(folder):
    rows = load(folder)
    assert rows.names.tolist() == [
        "cat/a.PNG",
        "cat/b.png",
        "cat/deep/c.bmp",
        "dog/1.png",
        "dog/2.gif",
    ]
    assert rows.signature == Signature((3, 4, 5), "uint8", ("cat", "dog"))
    assert rows.x.dtype == np.uint8
    for row, seed in zip(rows.x, (1, 0, 2, 3, 4), strict=True):
        np.testing.assert_array_equal(row, np.stack([noise(4, 5, seed=seed)] * 3))
    assert rows.y.dtype == np.int64
    assert rows.y.tolist() == [0, 0, 0, 1, 1]
    assert rows.published.tolist() == [FREE] * 5
    assert Images(str(folder)).keep_path() == folder.parent / "pets.partition.json"


def test_the_cache_is_mapped_and_a_write_stays_in_memory(folder):
    rows = load(folder)
    base = rows.x
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert type(rows.x) is np.ndarray  # so that it may be copied to a GPU
    rows.x[:] = 0
    np.testing.assert_array_equal(load(folder).x[1, 0], noise(4, 5))


def test_an_image_has_one_id_in_every_size_and_place(folder, tmp_path):
    rows = load(folder)
    assert len(set(rows.ids.tolist())) == 5
    for options in ({"resize": 7}, {"channels": "grey"}, {"resize": (2, 3), "channels": "grey"}):
        assert load(folder, **options).ids.tolist() == rows.ids.tolist()
    folder.rename(tmp_path / "moved")
    (tmp_path / "moved/dog/1.png").rename(tmp_path / "moved/dog/9.png")
    moved = load(tmp_path / "moved")
    assert moved.names[-1] == "dog/9.png"
    assert sorted(moved.ids.tolist()) == sorted(rows.ids.tolist())


def test_another_size_leaves_each_image_in_its_split(tmp_path):
    for i in range(60):
        write(tmp_path / f"d/{'ab'[i % 2]}/{i:02}.png", noise(6, 6, seed=i))
    first, second = load(tmp_path / "d"), load(tmp_path / "d", 3, "grey")
    old, new = Stratified().split(first), Stratified().split(second)
    assert old.test.tolist() == new.test.tolist()
    assert old.report["fingerprint"] == new.report["fingerprint"]


def test_copies_are_duplicates_and_images_that_a_size_makes_equal_are_not(tmp_path):
    for i, name in enumerate(SPLIT_FILES):
        write(tmp_path / "d" / f"{name}.png", np.diag([20 * i, 255 - 20 * i]).astype(np.uint8))
    rows = load(tmp_path / "d", 1)
    assert len(np.unique(rows.x)) < len(rows)
    assert len(Stratified().split(rows).test) == 3
    (tmp_path / "d/train/b/9.png").write_bytes((tmp_path / "d/test/a/1.png").read_bytes())
    with pytest.raises(ValueError, match=r"train/b/9.png.*test/a/1.png"):
        Stratified().split(load(tmp_path / "d"))


def test_the_cache_is_read_again_and_made_anew_only_when_a_file_changes(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(images, "_decode", lambda *a, f=images._decode: decoded.append(1) or f(*a))
    first = load(folder).x.copy()
    load(folder)
    assert len(decoded) == 5
    names = cache_files(folder)

    path = folder / "cat/b.png"
    stat = path.stat()
    write(path, 255 - noise(4, 5))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not np.array_equal(load(folder).x, first)
    assert len(decoded) == 10
    assert cache_files(folder) == names

    write(folder / "dog/3.png", noise(4, 5))
    assert len(load(folder)) == 6
    (folder / "dog/3.png").unlink()
    assert len(load(folder)) == 5
    load(folder, 8)
    assert len(cache_files(folder)) == 2 * len(names)  # the pixels of each size, and their index
    done = len(decoded)
    load(folder)
    load(folder, 8)
    assert len(decoded) == done
    names[0].unlink()
    assert len(load(folder)) == 5


def test_an_interrupted_build_leaves_no_cache(folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images.json, "dumps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert cache_files(folder) == []
    assert len(load(folder)) == 5


def test_a_read_only_place_keeps_the_cache_at_home(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert len(load(folder)) == 5
    assert not (folder.parent / ".fulgurite_cache").exists()
    assert len(list((tmp_path / "home/.cache/.fulgurite_cache").iterdir())) == 2


def test_hidden_and_other_files_are_ignored(folder):
    (folder / "readme.txt").write_text("x")
    (folder / "cat/notes.txt").write_text("x")
    (folder / "cat/._b.png").write_text("x")
    (folder / ".git").mkdir()
    write(folder / "cat/.thumbs/b.png", noise(9, 9))
    assert len(load(folder)) == 5


def test_splits_above_classes_are_published(tmp_path):
    for i, name in enumerate(SPLIT_FILES):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3, seed=i))
    rows = load(tmp_path / "d")
    assert rows.names.tolist()[1:3] == ["test/b/1.png", "test/b/2.png"]
    assert rows.published.tolist() == [2, 2, 2, FREE, FREE, 1, 1]
    assert rows.y.tolist() == [0, 1, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(rows.x[5, 0], noise(3, 3, seed=2))


def test_without_val_the_train_rows_are_free(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/b/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert load(tmp_path / "d").published.tolist() == [2, 2, FREE, FREE]


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test/1", "control/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert load(tmp_path / "d").signature.class_names == ("control", "test")


def test_grey_and_colour(folder):
    colour = noise(4, 5, 3)
    write(folder / "dog/9.png", colour)
    rows = load(folder)
    assert rows.x.shape == (6, 3, 4, 5)
    np.testing.assert_array_equal(rows.x[5], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(rows.x[0], np.stack([noise(4, 5, seed=1)] * 3))
    grey = load(folder, channels="grey").x
    assert grey.shape == (6, 1, 4, 5)
    np.testing.assert_array_equal(grey[0, 0], noise(4, 5, seed=1))
    luma = (colour @ np.array([299, 587, 114])) / 1000  # ITU-R 601
    assert abs(grey[5, 0] - luma).max() <= 1


def test_resize_is_height_then_width(folder):
    write(folder / "dog/9.png", np.repeat(np.repeat(noise(2, 3), 5, 0), 5, 1))  # 10 x 15
    rows = load(folder, (10, 15))
    assert rows.x.shape == (6, 3, 10, 15)
    assert load(folder, 7).x.shape == (6, 3, 7, 7)
    block = np.kron(noise(2, 3), np.ones((5, 5)))
    np.testing.assert_array_equal(rows.x[5, 0], block)
    small = load(folder, (2, 3)).x[5, 0]
    assert abs(small - noise(2, 3).astype(float)).max() < 60  # averaged over blocks, not sampled


def test_exif_turns_the_image(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top row is the right column
    turned = pixels_of(tmp_path, Image.fromarray(pixels), exif=exif)
    np.testing.assert_array_equal(turned[0], np.rot90(pixels, -1))


def test_transparency_is_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    got = pixels_of(tmp_path, Image.fromarray(pixels))
    assert got.transpose(1, 2, 0).tolist() == [[[10, 20, 30], [255] * 3, [204] * 3]]


def test_a_grey_image_with_alpha_is_grey(tmp_path):
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    assert pixels_of(tmp_path, image).tolist() == [[[10, 255]]] * 3


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels_of(tmp_path, image).tolist() == [[[9, 200]], [[8, 100]], [[7, 50]]]


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    got = pixels_of(tmp_path, image, "x.gif", transparency=1)
    assert got.tolist() == [[[9, 255]], [[8, 255]], [[7, 255]]]


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[True, False]]))
    assert pixels_of(tmp_path, image).tolist() == [[[255, 0]]] * 3


@pytest.mark.parametrize("name", ["x.jpg", "x.webp"])
def test_lossy_formats(tmp_path, name):
    got = pixels_of(tmp_path, Image.new("RGB", (16, 16), (200, 100, 50)), name, quality=95)
    assert abs(got.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 3


def test_cmyk_jpeg(tmp_path):
    got = pixels_of(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "x.jpg")
    assert got.shape == (3, 8, 8)
    assert got.min() >= 250


def test_a_trained_model_gives_size_channels_and_codes(folder):
    trained = Signature((1, 8, 6), "uint8", ("ape", "cat", "dog"))
    rows = load(folder, signature=trained)
    assert rows.x.shape == (5, 1, 8, 6)
    assert rows.signature == trained
    assert rows.y.tolist() == [1, 1, 1, 2, 2]
    assert rows.x.tolist() == load(folder, (8, 6), "grey").x.tolist()


def test_new_images_are_read_as_training_reads_them(folder):
    write(folder / "dog/9.png", noise(10, 15, 3))
    rows = load(folder, (4, 5), "rgb")
    x, names = read_images(folder, rows.signature)
    np.testing.assert_array_equal(x, rows.x)
    assert names == rows.names.tolist()
    x, names = read_images(folder / "dog/9.png", rows.signature)
    np.testing.assert_array_equal(x, rows.x[-1:])
    assert names == ["9.png"]


def test_blocks_of_files_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BLOCK", 4)
    for i in range(11):
        write(tmp_path / f"d/{'ab'[i % 2]}/{i:02}.png", np.full((2, 2), i, np.uint8))
    rows = load(tmp_path / "d")
    assert [int(Path(name).stem) for name in rows.names] == rows.x[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("text", "size"), [("8", (8, 8)), ("[8, 9]", (8, 9)), ("null", None)])
def test_resize_on_the_command_line(text, size):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    config = parser.parse_args(
        ["--source=src.data.sources.images.Images", "--source.path=x", f"--source.resize={text}"]
    )
    assert parser.instantiate(config).source.form == (size, "rgb")


# Broken files and folders


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])
    return path


BROKEN = "mend or remove it (to train without it: `data.source.skip_broken: true`)"


def test_a_truncated_file_is_named(folder):
    path = truncate(write(folder / "cat/x.jpg", noise(40, 50)))
    message = error_of(load, folder, 8)
    assert re.sub(r"\d+ bytes", "N bytes", message) == (
        f"{path} can't be decoded (image file is truncated (N bytes not processed)): {BROKEN}"
    )
    assert cache_files(folder) == []


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_file_that_is_no_image(folder, content):
    path = folder / "cat/x.png"
    path.write_bytes(content)
    expected = f"{path} can't be decoded (cannot identify image file): mend or remove it"
    assert error_of(load, folder) == expected + BROKEN.removeprefix("mend or remove it")
    signature = Signature((1, 4, 5), "uint8")
    assert error_of(read_images, folder, signature) == expected
    assert error_of(read_images, path, signature) == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("x.png", np.uint16), ("x.pgm", np.uint16), ("x.tif", np.float32)]
)
def test_more_than_8_bits(folder, name, dtype):
    path = write(folder / "cat" / name, np.ones((4, 5), dtype))
    why = "more than 8 bits a pixel: convert it, or give pixels as `Arrays`"
    assert error_of(load, folder) == f"{path} can't be decoded ({why}): {BROKEN}"


def test_broken_files_are_skipped_only_on_demand_and_counted(folder, caplog):
    for i in range(4):
        (folder / f"cat/b{i}.png").write_bytes(b"broken")
    rows = load(folder, skip_broken=True)
    assert sorted(caplog.messages) == [
        f"skipped: {folder}/cat/b{i}.png can't be decoded (cannot identify image file)"
        for i in range(4)
    ]
    clean = ["cat/a.PNG", "cat/b.png", "cat/deep/c.bmp", "dog/1.png", "dog/2.gif"]
    assert rows.names.tolist() == clean
    assert rows.y.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(rows.x[1, 0], noise(4, 5))
    np.testing.assert_array_equal(load(folder, skip_broken=True).x, rows.x)
    assert "cat/b0.png can't be decoded" in error_of(load, folder)


def test_a_class_of_broken_files_only(folder):
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"broken")
    message = f"{folder} has no image of the class `dog` to train on"
    assert error_of(load, folder, skip_broken=True) == message
    assert cache_files(folder) == []


def test_sizes_that_differ(folder):
    write(folder / "dog/3.png", noise(6, 7))
    assert error_of(load, folder) == (
        "dog/3.png is (6, 7) (height, width), other images (4, 5): set `data.source.resize`"
    )


@pytest.mark.parametrize("resize", [0, (0, 3), (3, -1)])
def test_a_size_below_1(resize):
    assert error_of(Images, "x", resize) == (
        f"`data.source.resize` is {resize}: give pixels, 1 or more"
    )


def test_no_such_folder(tmp_path):
    assert error_of(load, tmp_path / "x", kind=FileNotFoundError) == (
        f"[Errno 2] No such file or directory: '{tmp_path / 'x'}'"
    )


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_class_folders(tmp_path, num):
    write(tmp_path / "d" / ("a/" * num) / "x.png", noise(2, 2))
    assert error_of(load, tmp_path / "d") == (
        f"{tmp_path / 'd'} has {num} folders, not one for each class"
    )


def test_an_empty_class_folder(folder):
    (folder / "eel").mkdir()
    (folder / "eel/x.heic").write_bytes(b"x")
    assert error_of(load, folder) == f"the class {folder / 'eel'} has no images"


def test_a_class_that_is_not_in_train(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/b/1", "test/c/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert error_of(load, tmp_path / "d") == (
        f"{tmp_path / 'd'} has no image of the class `c` to train on"
    )


@pytest.mark.parametrize(
    "splits", [("train", "valid"), ("Testing", "Training"), ("test", "val"), ("other", "train")]
)
def test_splits_of_other_names(tmp_path, splits):
    for split in splits:
        for name in "ab":
            write(tmp_path / f"d/{split}/{name}/1.png", noise(3, 3))
    assert error_of(load, tmp_path / "d") == (
        f"{tmp_path / 'd'} has {', '.join(splits)}: name the splits train, val, test"
    )


def test_a_test_folder_without_classes(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert error_of(load, tmp_path / "d") == (
        f"{tmp_path / 'd/test'} has 0 folders, not one for each class"
    )


def test_a_class_that_the_model_does_not_know(folder):
    trained = Signature((1, 4, 5), "uint8", ("ape", "cat"))
    assert error_of(load, folder, signature=trained) == (
        f"{folder}: the folder has the class `dog`, new to the model; there are: ape, cat"
    )


@pytest.mark.parametrize(
    ("signature", "takes"),
    [
        (Signature((30,), "float32"), "float32 rows of shape (30,)"),
        (Signature((3, 4, 5), "float32"), "float32 rows of shape (3, 4, 5)"),
        (Signature((4, 4, 5), "uint8"), "uint8 rows of shape (4, 4, 5)"),
    ],
)
def test_a_model_that_takes_no_images(folder, signature, takes):
    message = f"the model takes {takes}, not images"
    assert error_of(read_images, folder, signature) == message


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_nothing_to_predict(tmp_path, name):
    (tmp_path / "empty").mkdir()
    path = tmp_path / name
    signature = Signature((1, 4, 5), "uint8")
    assert error_of(read_images, path, signature, kind=FileNotFoundError) == (
        f"{path}: no image is there ({SUFFIXES})"
    )


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    assert error_of(load, folder) == "images need Pillow: pip install pillow  (the extra `image`)"


def test_fit_test_and_predict(go, tmp_path):
    for i in range(40):
        name = f"{('gelb ü', 'Ω')[i % 2]}/{i:02}.png"
        write(tmp_path / "my pets" / name, noise(9 + i % 3, 8, 3, seed=i) // 4 + 190 * (i % 2))
    line = "fit --model Classifier --model.net ConvNet --model.optimizer AdamW --data.source Images"
    options = ("--trainer.max_epochs", 1, "--data.source.path", tmp_path / "my pets")
    said = go(line, *options, "--trainer.logger", "false")
    assert (said.code, said.err) == (
        2,
        "error: gelb ü/02.png is (11, 8) (height, width), other images (9, 8):"
        " set `data.source.resize`\n",
    )
    fit = go(line, *options, "--data.source.resize", 8, "--run", "pets")
    assert fit.code == 0, fit.err
    checkpoint = fit.folder / "checkpoints/best.ckpt"
    assert go("test --ckpt_path", checkpoint).metrics == fit.metrics

    said = go("predict --ckpt_path", checkpoint, "--data.predict_path", tmp_path / "my pets")
    lines = Path(said.out.rpartition("predictions: ")[2].strip()).read_text("utf-8").splitlines()
    assert lines[0] == "row,predicted,gelb ü,Ω"
    files = sorted((tmp_path / "my pets").rglob("*.png"))
    names = [file.relative_to(tmp_path / "my pets").as_posix() for file in files]
    assert [line.split(",")[0] for line in lines[1:]] == names
    one = files[0]
    said = go("predict --ckpt_path", checkpoint, "--data.predict_path", one)
    alone = Path(said.out.rpartition("predictions: ")[2].strip()).read_text("utf-8").splitlines()
    assert alone[0] == lines[0]
    assert alone[1].split(",")[0] == one.name
    np.testing.assert_allclose(
        [float(v) for v in alone[1].split(",")[2:]],
        [float(v) for v in lines[1].split(",")[2:]],
        rtol=1e-4,
    )
