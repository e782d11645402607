"""Where metrics go: a CSV file, Weights & Biases, TensorBoard."""

from src.tracking.csv_log import MetricsCsv
from src.tracking.tensorboard import TensorBoard
from src.tracking.wandb_log import Wandb

__all__ = ["MetricsCsv", "TensorBoard", "Wandb"]
