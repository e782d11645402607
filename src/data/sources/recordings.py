"""A folder of recordings for each class, heard as log-mel spectrograms."""

import math
import warnings
from pathlib import Path

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source
from src.data.sources.labels import read_labels

WINDOW_S = 0.025
LEAST_POWER = 1e-6  # some ten times what rounding to 16 bits adds: silence is not minus infinity


class Recordings(Source):
    """A folder of WAV files for each class, as log-mel spectrograms: signals of a channel a band.

    Laid out as Speech Commands is: files named in `validation_list.txt` and `testing_list.txt` are
    published splits, and `SPEAKER_nohash_0.wav` is of the group SPEAKER, so that no speaker is in
    two splits. Hidden folders, and those that begin with `_`, are ignored. The spectrograms are
    made when training starts, some 2,000 a second. Frames after the end of a recording are missing.

    Args:
        path: The folder.
        sample_rate: Hz that all are brought to.
        length_s: Seconds that are heard of each.
        num_mels: Bands of frequencies, at most some 100.
        hop_s: Seconds between two frames of 25 ms.
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
        sizes = (round(seconds * sample_rate) for seconds in (WINDOW_S, hop_s, length_s))
        self.window, self.hop, self.length = sizes
        if self.hop < 1 or self.length < self.window:
            raise ValueError("`data.source`: give a hop_s above 0, a length_s of 0.025 or more")
        self.fft_size = 1 << (self.window - 1).bit_length()
        self.bands = mel_bands(num_mels, self.fft_size, sample_rate)

    def load(self, signature: Signature | None = None) -> Rows:
        found = self.path.glob("[!._]*/[!.]*")
        files = sorted(file for file in found if file.suffix.lower() == ".wav")
        if not files:
            raise ValueError(f"{self.path} has no folder of WAV files: mend `data.source.path`")
        labels, where = np.array([file.parent.name for file in files]), f"{self.path}: the folder"
        y, classes = read_labels(labels, "classification", signature, where)
        x = np.stack([self._log_mel(file) for file in files])
        speakers = np.array([file.name.partition("_nohash_")[0] for file in files])
        groups = speakers if any("_nohash_" in file.name for file in files) else None
        names = [file.relative_to(self.path).as_posix() for file in files]
        published = np.full(len(files), FREE, np.int8)
        for split, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
            if (path := self.path / name).is_file():
                listed = path.read_text("utf-8").splitlines()
                published[np.isin(names, listed)] = SPLITS.index(split)
        signature = signature or Signature(x.shape[1:], "float32", classes)
        return Rows(x, y, signature, groups=groups, published=published, names=names)

    def _log_mel(self, path: Path) -> np.ndarray:
        """`(num_mels, frames)` float32; frames that are not whole are NaN."""
        wave = np.full(self.length, np.nan)
        heard = read_wav(path, self.sample_rate)[: self.length]
        if len(heard) < self.window:
            raise ValueError(f"{path} is shorter than a frame of {WINDOW_S} s: remove it")
        wave[: len(heard)] = heard
        frames = np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop]
        frames = frames * np.hanning(self.window + 1)[:-1]
        with np.errstate(invalid="ignore"):  # of NaN
            power = np.abs(np.fft.rfft(frames, self.fft_size)) ** 2
        return np.asarray(np.log(self.bands @ power.T + LEAST_POWER), np.float32)


def mel_bands(num_mels: int, fft_size: int, sample_rate: int) -> np.ndarray:
    """Triangles of height 1 over the frequencies of a transform: `(num_mels, fft_size // 2 + 1)`.

    Source: S. Young and others, The HTK Book 3.4, section 5.6: mel(f) = 2595 log10(1 + f / 700).
    """
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, num_mels + 2) / 2595) - 1)[:, None]
    hertz = np.arange(fft_size // 2 + 1) * sample_rate / fft_size
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rises, falls = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return np.minimum(rises, falls).clip(0)


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """The mean of all channels, from -1 to 1, at this rate: `(N,)`.

    Raises:
        ValueError: It is no WAV file, or not whole.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        with warnings.catch_warnings(action="ignore", category=wavfile.WavFileWarning):  # notes
            warnings.filterwarnings("error", "(?i).*(eof|incomplete|end of file)")
            rate, wave = wavfile.read(path)
        if wave.dtype.kind != "f":
            most = 2.0 ** (8 * wave.dtype.itemsize - 1)
            wave = (wave - most * (wave.dtype == np.uint8)) / most
        wave = wave.reshape(len(wave), -1).mean(1)
        return np.asarray(resample_poly(wave, sample_rate, rate) if rate != sample_rate else wave)
    except Exception as error:  # a ValueError, a struct.error, such a warning
        raise ValueError(f"{path} is no whole WAV file ({error}): mend or remove it") from error
