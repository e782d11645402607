"""A folder of recordings for each class, heard as log-mel spectrograms."""

import math
import warnings
from pathlib import Path

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source

WINDOW_S = 0.025
LEAST_POWER = 1e-6  # some ten times what rounding to 16 bits adds: silence is not minus infinity
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}


class Recordings(Source):
    """A folder of WAV files for each class, as log-mel spectrograms: signals of a channel a band.

    Laid out as Speech Commands is: files named in `validation_list.txt` and `testing_list.txt` are
    published splits, and `SPEAKER_nohash_0.wav` is of the group SPEAKER, so that no speaker is in
    two splits. Hidden folders, and those that begin with `_`, are ignored. The spectrograms are
    made when training starts, some 3,000 a second. Frames after the end of a recording are missing.

    Args:
        path: The folder.
        sample_rate: Hz that all recordings are brought to; of theirs, half is the highest heard.
        length_s: Seconds of a row: what a recording has beyond is cut off.
        num_mels: Bands from 0 Hz to the highest, of equal width in mel.
        hop_s: Seconds from one frame, of 25 ms, to the next.
    """

    def __init__(
        self,
        path: str,
        sample_rate: int = 16000,
        length_s: float = 1.0,
        num_mels: int = 40,
        hop_s: float = 0.01,
    ) -> None:
        self.path, self.sample_rate = Path(path).expanduser(), sample_rate
        self.window, self.hop = round(WINDOW_S * sample_rate), round(hop_s * sample_rate)
        self.length = round(length_s * sample_rate)
        if self.hop < 1 or self.length < self.window:
            what = f"`data.source` has rows of {length_s:g} s with a frame each {hop_s:g} s"
            raise ValueError(f"{what}: give at least {WINDOW_S} s, and more than 0 s")
        self.fft_size = 1 << (self.window - 1).bit_length()
        self.bands = mel_bands(num_mels, self.fft_size, sample_rate)

    def load(self, signature: Signature | None = None) -> Rows:
        found = self.path.glob("[!._]*/[!.]*")
        files = sorted(file for file in found if file.suffix.lower() == ".wav")
        labels = [file.parent.name for file in files]
        classes = signature.class_names if signature else tuple(sorted({*labels}))
        if len({*labels}) < 2:
            what = f"{self.path} has WAV files in {len({*labels})} folders"
            raise ValueError(f"{what}, not in one for each class: mend `data.source.path`")
        if unknown := {*labels} - {*classes}:
            raise ValueError(f"{self.path}: the model doesn't know the class `{min(unknown)}`")
        names = [file.relative_to(self.path).as_posix() for file in files]
        speakers = [file.name.partition("_nohash_")[0] for file in files]
        has_speakers = any(file.name not in speakers for file in files)
        x = np.stack([self._log_mel(file) for file in files])
        return Rows(
            x,
            np.array([classes.index(label) for label in labels], np.int64),
            signature or Signature(x.shape[1:], "float32", classes),
            groups=np.array(speakers) if has_speakers else None,
            published=self._published(names),
            names=names,
        )

    def _published(self, names: list[str]) -> np.ndarray:
        """Splits by the lists beside the folders: `(N,)`."""
        splits = np.full(len(names), FREE, np.int8)
        for name, split in LISTS.items():
            if (self.path / name).is_file():
                listed = {*(self.path / name).read_text("utf-8").split("\n")}
                splits[[name in listed for name in names]] = SPLITS.index(split)
        return splits

    def _log_mel(self, path: Path) -> np.ndarray:
        """`(num_mels, frames)` float32; frames that are not whole are NaN."""
        wave = np.full(self.length, np.nan)
        heard = read_wav(path, self.sample_rate)[: self.length]
        if len(heard) < self.window:
            raise ValueError(f"{path} is shorter than a frame of {WINDOW_S} s: remove it")
        wave[: len(heard)] = heard
        frames = np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        with np.errstate(invalid="ignore"):  # of NaN
            power = np.abs(np.fft.rfft(frames * hann, self.fft_size)) ** 2
        log_mel: np.ndarray = np.log(power @ self.bands.T + LEAST_POWER).T.astype(np.float32)
        return log_mel


def mel_bands(num_mels: int, fft_size: int, sample_rate: int) -> np.ndarray:
    """Triangles of height 1 over the frequencies of a transform: `(num_mels, fft_size // 2 + 1)`.

    Source: S. Young and others, The HTK Book 3.4, section 5.6: mel(f) = 2595 log10(1 + f / 700).
    """
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, num_mels + 2) / 2595) - 1)[:, None]
    hertz = np.arange(fft_size // 2 + 1) * sample_rate / fft_size
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bands = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clip(0)
    if num_mels < 1 or not bands.any(1).all():
        what = f"`data.source.num_mels` {num_mels} has bands without a frequency"
        raise ValueError(f"{what}: lower it, or give 1 or more")
    return bands


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """The mean of all channels, from -1 to 1, at this rate: `(N,)`.

    Raises:
        ValueError: It is no WAV file, or not whole.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of notes in the file
            warnings.filterwarnings("error", "(?i).*(eof|incomplete|end of file)")
            rate, wave = wavfile.read(path)
        middle, most = {"u": (128, 128), "f": (0, 1)}.get(
            wave.dtype.kind, (0, 2 ** (8 * wave.dtype.itemsize - 1))
        )
        wave = (wave.reshape(len(wave), -1).mean(1) - middle) / most
        wave = wave if rate == sample_rate else resample_poly(wave, sample_rate, rate)
    except Exception as error:  # a ValueError, a struct.error, such a warning
        raise ValueError(f"{path} is no whole WAV file ({error}): mend or remove it") from error
    heard: np.ndarray = wave
    return heard
