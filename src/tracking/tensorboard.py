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
            what = "TensorBoard needs tensorboard: pip install tensorboard"
            raise ValueError(f"{what}  (the extra `tensorboard`)") from None

    @property
    def root_dir(self) -> str:
        return str(self.run_dir)
