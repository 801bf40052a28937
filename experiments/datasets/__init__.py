"""Data sets in memory, and how training draws from them."""

from experiments.datasets.loading import DATASETS, Dataset, load
from experiments.datasets.pipeline import (
    evaluation_batches,
    full_batches,
    standardization,
    training_batches,
)

__all__ = [
    "DATASETS",
    "Dataset",
    "evaluation_batches",
    "full_batches",
    "load",
    "standardization",
    "training_batches",
]
