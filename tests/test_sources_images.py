import os
import re
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from src.data.rows import FREE, Signature, Source
from src.data.sources import images
from src.data.sources.images import Images, read_images

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
    assert rows.signature == Signature((1, 4, 5), "uint8", ("cat", "dog"))
    assert rows.x.dtype == np.uint8
    for row, seed in zip(rows.x, (1, 0, 2, 3, 4), strict=True):
        np.testing.assert_array_equal(row[0], noise(4, 5, seed=seed))
    assert rows.y.dtype == np.int64
    assert rows.y.tolist() == [0, 0, 0, 1, 1]
    assert rows.published is None
    assert Images(str(folder)).keep_path() == folder.parent / "pets.partition.json"


def test_the_cache_is_mapped_and_a_write_stays_in_memory(folder):
    rows = load(folder)
    assert isinstance(rows.x, np.memmap)
    rows.x[:] = 0
    np.testing.assert_array_equal(load(folder).x[1, 0], noise(4, 5))
    (cache,) = cache_files(folder)
    np.testing.assert_array_equal(np.load(cache)[1, 0], noise(4, 5))  # a plain .npy file


def test_the_cache_is_read_again_and_made_anew_only_when_a_file_changes(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(images, "_decode", lambda *a, f=images._decode: decoded.append(1) or f(*a))
    first = load(folder)
    load(folder)
    assert len(decoded) == 5
    (old,) = cache_files(folder)

    path = folder / "cat/b.png"
    stat = path.stat()
    write(path, 255 - noise(4, 5))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not np.array_equal(load(folder).x, first.x)
    assert len(decoded) == 10
    assert old not in cache_files(folder)

    write(folder / "dog/3.png", noise(4, 5))
    assert len(load(folder)) == 6
    (folder / "dog/3.png").unlink()
    assert len(load(folder)) == 5
    assert len(cache_files(folder)) == 1
    load(folder, 8)
    load(folder)
    assert len(cache_files(folder)) == 2  # one for each set of options


def test_an_interrupted_build_leaves_no_cache(folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            images.json, "dumps", lambda v, f=images.json.dumps: f(v) if v else interrupt()
        )
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert cache_files(folder) == []
    assert len(load(folder)) == 5


def test_a_read_only_place_keeps_the_cache_at_home(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert len(load(folder)) == 5
    assert not (folder.parent / ".fulgurite_cache").exists()
    assert len(list((tmp_path / "home/.cache/.fulgurite_cache").iterdir())) == 1


def test_hidden_and_other_files_are_ignored(folder):
    (folder / "readme.txt").write_text("x")
    (folder / "cat/notes.txt").write_text("x")
    (folder / "cat/._b.png").write_text("x")
    (folder / ".git").mkdir()
    write(folder / "cat/.thumbs/b.png", noise(9, 9))
    assert len(load(folder)) == 5


def test_splits_above_classes_are_published(tmp_path):
    for i, name in enumerate(["train/a/1", "train/b/1", "val/a/1", "test/b/1", "test/b/2"]):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3, seed=i))
    rows = load(tmp_path / "d")
    assert rows.names.tolist()[:2] == ["test/b/1.png", "test/b/2.png"]
    assert rows.published.tolist() == [2, 2, 0, 0, 1]
    assert rows.y.tolist() == [1, 1, 0, 1, 0]
    np.testing.assert_array_equal(rows.x[4, 0], noise(3, 3, seed=2))


def test_without_val_the_train_rows_are_free(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/b/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert load(tmp_path / "d").published.tolist() == [2, FREE, FREE]


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test/1", "control/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert load(tmp_path / "d").signature.class_names == ("control", "test")


def test_one_colour_image_makes_all_of_them_colour(folder):
    (folder / "dog/2.gif").unlink()
    colour = noise(4, 5, 3)
    write(folder / "dog/9.png", colour)
    rows = load(folder)
    assert rows.x.shape == (5, 3, 4, 5)
    np.testing.assert_array_equal(rows.x[4], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(rows.x[0], np.stack([noise(4, 5, seed=1)] * 3))
    grey = load(folder, channels="grey").x[4, 0]
    luma = (colour @ np.array([299, 587, 114])) / 1000  # ITU-R 601
    assert abs(grey - luma).max() <= 1


def test_resize_is_height_then_width(folder):
    write(folder / "dog/9.png", np.repeat(np.repeat(noise(2, 3), 5, 0), 5, 1))  # 10 x 15
    rows = load(folder, (10, 15))
    assert rows.x.shape == (6, 1, 10, 15)
    assert load(folder, 7).x.shape == (6, 1, 7, 7)
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


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bits_become_8(tmp_path, name):
    pixels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert pixels_of(tmp_path, Image.fromarray(pixels), name).tolist() == [[[0, 0, 1, 128, 255]]]


def test_transparency_is_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    got = pixels_of(tmp_path, Image.fromarray(pixels))
    assert got.transpose(1, 2, 0).tolist() == [[[10, 20, 30], [255] * 3, [204] * 3]]


def test_a_grey_image_with_alpha_is_grey(tmp_path):
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    assert pixels_of(tmp_path, image).tolist() == [[[10, 255]]]


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
    assert pixels_of(tmp_path, image).tolist() == [[[255, 0]]]


@pytest.mark.parametrize("name", ["x.jpg", "x.webp"])
def test_lossy_formats(tmp_path, name):
    got = pixels_of(tmp_path, Image.new("RGB", (16, 16), (200, 100, 50)), name, quality=95)
    assert abs(got.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 3


def test_cmyk_jpeg(tmp_path):
    got = pixels_of(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "x.jpg")
    assert got.shape == (3, 8, 8)
    assert got.min() >= 250


def test_a_trained_model_gives_size_channels_and_codes(folder):
    trained = Signature((3, 8, 6), "uint8", ("ape", "cat", "dog"))
    rows = load(folder, signature=trained)
    assert rows.x.shape == (5, 3, 8, 6)
    assert rows.signature == trained
    assert rows.y.tolist() == [1, 1, 1, 2, 2]
    np.testing.assert_array_equal(rows.x[:, 0], rows.x[:, 2])
    assert rows.x.tolist() == load(folder, (8, 6), "rgb").x.tolist()


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
    assert parser.instantiate(config).source.form == (size, "auto")


# Broken files and folders


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])
    return path


BROKEN = (
    "mend it or take it away; `data.source.skip_broken: true` leaves such files of a source out"
)


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
    expected = f"{path} can't be decoded (cannot identify image file): {BROKEN}"
    assert error_of(load, folder) == expected
    signature = Signature((1, 4, 5), "uint8")
    assert error_of(read_images, folder, signature) == expected


def test_pixels_of_32_bits(folder):
    path = write(folder / "cat/x.tif", np.ones((4, 5), np.float32))
    assert error_of(load, folder) == (
        f"{path} can't be decoded (pixels of 32 bits, not 8 or 16): {BROKEN}"
    )


def test_broken_files_are_skipped_only_on_demand_and_counted(folder, caplog):
    for i in range(4):
        (folder / f"cat/b{i}.png").write_bytes(b"broken")
    rows = load(folder, skip_broken=True)
    assert caplog.messages == [
        "skipped 4 of 9 images, not decodable: cat/b0.png, cat/b1.png, cat/b2.png, ..."
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
    assert error_of(load, folder, skip_broken=True) == (
        f"no image of the class `dog` of {folder} can be decoded"
    )
    for path in folder.rglob("*.*"):
        path.write_bytes(b"broken")
    assert error_of(load, folder, skip_broken=True) == (
        f"none of the 5 images of {folder} can be decoded"
    )


def test_sizes_that_differ(folder):
    write(folder / "dog/3.png", noise(6, 7))
    assert error_of(load, folder) == (
        "cat/a.PNG is 4x5 (height x width), dog/3.png is 6x7:"
        " set `data.source.resize: [height, width]`"
    )


@pytest.mark.parametrize("resize", [0, (0, 3), (3, -1)])
def test_a_size_below_1(resize):
    assert error_of(Images, "x", resize) == (
        f"`data.source.resize` is {resize}: give pixels, 1 or more"
    )


def test_no_such_folder(tmp_path):
    assert error_of(load, tmp_path / "x", kind=FileNotFoundError) == (
        f"`data.source.path` {tmp_path / 'x'}: there is no such folder"
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
    assert error_of(load, folder) == f"the class {folder / 'eel'} has no images ({SUFFIXES})"


def test_a_class_that_is_not_in_train(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/c/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert error_of(load, tmp_path / "d") == (
        f"the class {tmp_path / 'd/test/c'} is not in {tmp_path / 'd/train'}"
    )


def test_a_split_of_another_name(tmp_path):
    for name in ("train/a/1", "train/b/1", "valid/a/1"):
        write(tmp_path / "d" / f"{name}.png", noise(3, 3))
    assert error_of(load, tmp_path / "d") == (
        f"{tmp_path / 'd'} has train, valid: splits are train, val, test"
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
        f"the model doesn't know the class `dog` of {folder}"
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
