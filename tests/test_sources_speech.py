"""Speech: the published cepstra, and WAV files as log-mel spectrograms."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from src.data.partition import Stratified
from src.data.rows import FREE, SPLITS, Signature
from src.data.sources import JapaneseVowels, Recordings
from src.data.sources.recordings import mel_bands, read_wav
from src.data.statistics import fit
from src.nets.normalize import Normalize
from tests.conftest import refused

RATE = 8000
TONES = {"low": 400, "high": 1600}  # Hz


def test_japanese_vowels_are_the_published_numbers():
    # The first frame of ae.train, the last of ae.test, and the numbers of utterances in size_ae.*
    first = [1.860936, -0.207383, 0.261557, -0.214562, -0.171253, -0.118167, -0.277557, 0.025668]
    rows = JapaneseVowels().load()
    assert rows.x.shape == (640, 12, 29)
    assert rows.x.dtype == np.float32
    assert rows.x[0, :8, 0].tolist() == np.float32(first).tolist()
    assert rows.x[-1, -1, :2].tolist() == np.float32([0.101818, 0.227841]).tolist()
    test = rows.published == SPLITS.index("test")
    assert np.flatnonzero(test).tolist() == list(range(270, 640))
    assert (rows.published[~test] == FREE).all()
    assert np.bincount(rows.y[~test]).tolist() == [30] * 9
    assert np.bincount(rows.y[test]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    there = ~np.isnan(rows.x)
    assert (there == there[:, :1]).all()  # a frame is there or missing
    lengths = there[:, 0].sum(1)
    assert (there[:, 0] == (np.arange(29) < lengths[:, None])).all()
    assert (lengths.min(), lengths.max(), lengths.sum()) == (7, 29, 9961)
    # of all 9,961 frames, as read from the text files of UCI in the distribution of aeon 1.6
    assert hashlib.sha256(rows.x.tobytes()).hexdigest()[:16] == "9bfe872e8fbcac6c"


def test_what_comes_after_an_utterance_is_no_part_of_the_statistics_and_0():
    rows = JapaneseVowels().load()
    split = Stratified().split(rows)
    assert len(split.test) == 370
    assert len(split.val) > 30
    found = fit(rows.x, split.train)
    frames = rows.x[split.train].swapaxes(0, 1).reshape(12, -1)
    frames = frames[:, ~np.isnan(frames[0])].astype(np.float64)
    np.testing.assert_allclose(found.mean, frames.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, frames.std(1), rtol=1e-12)
    scaled = Normalize((12, 29), found.mean, found.std)(torch.from_numpy(rows.x)).numpy()
    assert (scaled[np.isnan(rows.x)] == 0).all()


def test_bands_are_those_of_librosa():
    """`librosa.filters.mel(sr=16000, n_fft=512, n_mels=40, htk=True, norm=None)`, librosa 0.11."""
    bands = mel_bands(40, 512, 16000)
    assert bands.shape == (40, 257)
    assert bands.sum() == pytest.approx(246.89891, rel=1e-6)
    np.testing.assert_allclose(bands[0, :4], [0, 0.70424, 0.61587054, 0], atol=1e-7)
    expected = [0.8128515, 0.6191364, 0.4254213, 0.23170619, 0.03799108, 0]
    np.testing.assert_allclose(bands[20, 60:66], expected, atol=1e-6)
    np.testing.assert_allclose(bands[39, -3:], [0.12050989, 0.06025494, 0], atol=1e-6)


def tone(hertz: float, seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone in noise, from -1 to 1."""
    t, rng = np.arange(round(seconds * rate)) / rate, np.random.default_rng(seed)
    return 0.3 * np.sin(2 * np.pi * hertz * t) + 0.01 * rng.normal(size=len(t))


def write(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, wave)


def pcm(wave: np.ndarray) -> np.ndarray:
    return (wave * 32767).round().astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """60 tones in the layout of Speech Commands, by 10 speakers, of 0.5 to 1 s."""
    for i in range(60):
        label = [*TONES][i % 2]
        wave = tone(TONES[label] * (1 + i / 600), 0.5 + (i % 7) / 12, seed=i)
        write(tmp_path / "said" / label / f"{i // 6:08x}_nohash_{i}.wav", pcm(wave))
    write(tmp_path / "said" / "_background_noise_" / "hum.wav", pcm(tone(50, 3)))
    (tmp_path / "said" / "low" / "notes.txt").write_text("no WAV")
    (tmp_path / "said" / "low" / "._0.wav").write_text("no WAV either")
    return tmp_path / "said"


def test_a_spectrogram_is_that_of_torch_and_missing_after_the_end(folder):
    source = Recordings(str(folder), RATE, num_mels=20)
    rows = source.load()
    assert rows.x.shape == (60, 20, 98)
    assert rows.x.dtype == np.float32
    assert rows.signature.class_names == ("high", "low")
    assert rows.names[0] == "high/00000000_nohash_1.wav"
    _, stored = wavfile.read(folder / rows.names[0])
    window = torch.nn.functional.pad(torch.hann_window(200, dtype=torch.float64), (0, 56))
    wave = torch.from_numpy(stored / 2**15)
    spectrum = torch.stft(wave, 256, 80, window=window, center=False, return_complex=True)
    power = torch.from_numpy(mel_bands(20, 256, RATE)) @ spectrum.abs() ** 2
    count = spectrum.shape[1]
    np.testing.assert_allclose(rows.x[0, :, :count], (power + 1e-6).log(), rtol=1e-5)
    whole = 1 + (len(stored) - 200) // 80
    assert np.isnan(rows.x[0, :, whole:]).all()
    assert not np.isnan(rows.x[0, :, :whole]).any()
    middle = 2595 * math.log10(1 + RATE / 2 / 700) / 21 * np.arange(1, 21)  # mel of each band
    loudest = middle[np.nanmean(rows.x, 2).argmax(1)]
    expected = [2595 * math.log10(1 + TONES[rows.signature.class_names[c]] / 700) for c in rows.y]
    assert np.abs(loudest - expected).max() < 160  # bands are 101 mel apart, tones vary by 10 %


def test_no_speaker_is_in_two_splits_and_lists_win(folder):
    rows = Recordings(str(folder), RATE).load()
    split = Stratified().split(rows)
    speakers = [{*rows.groups[index]} for index in split[:3]]
    assert min(map(len, speakers)) > 0
    assert sum(map(len, speakers)) == 10
    lists = {"testing_list.txt": rows.names[:7], "validation_list.txt": rows.names[7:12]}
    for name, names in lists.items():
        (folder / name).write_text("\n".join(names) + "\n")
    rows = Recordings(str(folder), RATE).load()
    assert rows.published[:12].tolist() == [SPLITS.index("test")] * 7 + [SPLITS.index("val")] * 5
    assert (rows.published[12:] == FREE).all()
    own = folder.parent / "own"
    for label in TONES:
        write(own / label / "1.WAV", pcm(tone(TONES[label], 0.5)))
    assert Recordings(str(own), RATE).load().groups is None


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "stereo", "rate"])
def test_every_kind_of_wav_is_the_same_wave(tmp_path, kind):
    wave = tone(400, 0.5)
    stored = {
        "u1": (wave * 127 + 128).round().astype(np.uint8),
        "i2": pcm(wave),
        "i4": (wave * (2**31 - 1)).astype(np.int32),
        "f4": wave.astype(np.float32),
        "stereo": np.stack([wave * 2, wave * 0], 1).astype(np.float32),
        "rate": tone(400, 0.5, 11025).astype(np.float32),
    }
    write(tmp_path / "a.wav", stored[kind], 11025 if kind == "rate" else RATE)
    found = read_wav(tmp_path / "a.wav", RATE)
    assert len(found) == pytest.approx(len(wave), abs=1)
    if kind == "rate":  # other noise, and a filter's edges
        clean = 0.3 * np.sin(2 * np.pi * 400 * np.arange(len(found)) / RATE)
        assert np.abs(found - clean)[50:-50].max() < 0.06
    else:
        np.testing.assert_allclose(found, wave, atol=0.01 if kind == "u1" else 1e-4)


def test_what_can_not_be_read_is_named_in_a_line(folder):
    def said(**options):
        return refused(lambda: Recordings(str(folder), RATE, **options).load())

    known = Signature((40, 98), "float32", ("high", "mid"))
    source = Recordings(str(folder), RATE)
    assert "the folder has the class `low`, new to the model" in refused(lambda: source.load(known))
    whole = next((folder / "low").glob("0*.wav"))
    content = whole.read_bytes()
    for broken in (content[:3000], content[:20], b"no WAV", b""):
        whole.write_bytes(broken)
        assert said().startswith(f"{whole} is no whole WAV file (")
    write(whole, pcm(tone(400, 0.02)))
    assert said() == f"{whole} is shorter than a frame of 0.025 s: remove it"
    assert said(length_s=0.01).startswith("`data.source`: give a hop_s above 0, a length_s of 0.02")
    for file in (folder / "low").glob("*.wav"):
        file.unlink()
    assert "the folder is `high` in every row: a classification needs two" in said()
    source.path = folder / "high"
    assert refused(source.load).startswith(f"{folder / 'high'} has no folder of WAV files: mend")
