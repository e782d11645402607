"""Japanese Vowels: real speech of nine speakers, shipped beside this file with its licence."""

from pathlib import Path

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source

NUM_TRAIN, LONGEST = 270, 29  # utterances; frames


class JapaneseVowels(Source):
    """640 utterances of two vowels, 12 cepstra of up to 29 frames, 9 speakers, 370 for test.

    Which speaker is it? An utterance has 7 to 29 frames of 25.6 ms, one every 6.4 ms; what comes
    after it is NaN, missing: no part of the statistics, and 0 once it is scaled.

    Source: M. Kudo, J. Toyama, M. Shimbo, Japanese Vowels, UCI, 1999, doi 10.24432/C5NS47
    (CC BY 4.0).
    """

    def load(self, signature: Signature | None = None) -> Rows:
        with np.load(Path(__file__).with_suffix(".npz")) as stored:
            millionths = stored["bytes"].T.copy().view("<i4")[..., 0]  # (frames of all, 12)
            lengths, speakers = stored["length"], stored["speaker"]
        x = np.full((len(lengths), LONGEST, 12), np.nan, np.float32)
        x[np.arange(LONGEST) < lengths[:, None]] = millionths / 1e6
        published = np.full(len(x), SPLITS.index("test"), np.int8)
        published[:NUM_TRAIN] = FREE
        x, y = np.ascontiguousarray(x.swapaxes(1, 2)), speakers.astype(np.int64) - 1
        signature = Signature(x.shape[1:], "float32", tuple("123456789"))
        return Rows(x, y, signature, published=published)
