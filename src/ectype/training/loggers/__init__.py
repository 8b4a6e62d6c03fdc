"""Loggers: training runs in TensorBoard, Weights & Biases and MLflow, each behind an extra."""

from ectype.training.loggers.base import Results
from ectype.training.loggers.run_loggers import RunLoggers, check_loggers

__all__ = ["Results", "RunLoggers", "check_loggers"]
