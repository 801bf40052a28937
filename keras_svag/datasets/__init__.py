"""Data sets in memory, and how training draws from them.

TensorFlow Datasets and scikit-learn are imported when a set is loaded, not
before.
"""

from keras_svag.datasets.augmentation import augment
from keras_svag.datasets.loading import Dataset, load
from keras_svag.datasets.pipeline import (
    evaluation_batches,
    full_batches,
    single_examples,
    standardization,
    training_batches,
)
from keras_svag.noise.sampling import SAMPLING_MODES, sub_batch_indices

__all__ = [
    "SAMPLING_MODES",
    "Dataset",
    "augment",
    "evaluation_batches",
    "full_batches",
    "load",
    "single_examples",
    "standardization",
    "sub_batch_indices",
    "training_batches",
]
