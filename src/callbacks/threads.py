"""How many cores a run takes."""

from typing import Any

import torch
from lightning.pytorch import Callback


class Threads(Callback):
    """Sets the CPU threads of a run: for several runs at a time, and for the same last digit.

    Args:
        num: Threads of one operation, 1 or more. Sums differ in their last digits with it.
    """

    def __init__(self, num: int = 1) -> None:
        if num < 1:
            raise ValueError(f"`num` of the callback Threads is {num}, not 1 or more")
        self.num = num

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.num)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        torch.set_num_threads(self._before)
