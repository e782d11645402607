"""Where metrics go: one in `__all__` can be named in a config."""

from src.tracking.csv_log import MetricsCsv
from src.tracking.tensorboard import TensorBoard
from src.tracking.wandb_log import Wandb

__all__ = ["MetricsCsv", "TensorBoard", "Wandb"]
