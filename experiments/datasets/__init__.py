"""Data sets in memory, and how training draws from them."""

from experiments.datasets.augmentation import augment
from experiments.datasets.loading import Dataset, load
from experiments.datasets.pipeline import (
    evaluation_batches,
    full_batches,
    single_examples,
    standardization,
    training_batches,
)

__all__ = [
    "Dataset",
    "augment",
    "evaluation_batches",
    "full_batches",
    "load",
    "single_examples",
    "standardization",
    "training_batches",
]
