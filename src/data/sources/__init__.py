"""One file a source. To add one: a file here, its class below, a config, a test."""

from src.data.sources.arrays import Arrays
from src.data.sources.bundled import BreastCancer, Diabetes, Digits, Wine
from src.data.sources.downloads import Cifar10, FashionMnist, Mnist
from src.data.sources.function import Function
from src.data.sources.images import Images
from src.data.sources.japanese_vowels import JapaneseVowels
from src.data.sources.mnist1d import Mnist1d
from src.data.sources.recordings import Recordings
from src.data.sources.table import Table

__all__ = [
    "Digits",
    "Wine",
    "BreastCancer",
    "Diabetes",
    "Mnist1d",
    "JapaneseVowels",
    "Function",
    "Table",
    "Images",
    "Arrays",
    "Recordings",
    "Mnist",
    "FashionMnist",
    "Cifar10",
]
