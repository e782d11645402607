"""TensorBoard, its files in the run folder."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Writes TensorBoard's event files into `tensorboard/` of the run folder."""

    run_dir: Path

    def __init__(self) -> None:
        try:
            super().__init__("", name="", version="tensorboard", default_hp_metric=False)
        except ModuleNotFoundError:
            raise ValueError("install the extra `tensorboard`: pip install tensorboard") from None

    @property
    def root_dir(self) -> str:
        return str(self.run_dir)
