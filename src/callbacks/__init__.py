"""What watches a run."""

from src.callbacks.checkpoint import Checkpoint, EarlyStopping
from src.callbacks.ema import EMA
from src.callbacks.monitor import Monitor
from src.callbacks.report import Report
from src.callbacks.threads import Threads

__all__ = ["Checkpoint", "EarlyStopping", "EMA", "Monitor", "Report", "Threads"]
