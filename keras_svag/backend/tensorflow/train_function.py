"""What takes the place of TensorFlow's train functions for one call."""

import numpy as np
import tensorflow as tf

from keras_svag.backend.batches import arrays_of, check_rows
from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    without_optionals,
)
from keras_svag.backend.train_function import TrainFunction


class FirstCall(TrainFunction):
    """Looks at what the iterator of `fit` declares, and draws nothing.

    Args:
        model: The model.
        note: Function of whether batches may differ in their rows.
    """

    def __init__(self, model, note):
        super().__init__(model)
        self._note = note

    def _call(self, iterator):
        spec = getattr(iterator, "element_spec", None)
        if spec is not None:
            rows = [_declared_rows(s) for s in tf.nest.flatten(spec)]
            check_rows(rows)
            self._note(None in rows)
        return self.found(iterator)


def _declared_rows(spec):
    while hasattr(spec, "_value_specs"):  # Of several replicas.
        spec = spec._value_specs[0]
    shape = getattr(spec, "shape", None)
    return shape[0] if shape is not None and shape.rank else None


def fewest_rows(batch):
    """Rows of the replica that has the fewest in a batch of `fit`.

    Raises:
        ValueError: If the batch cannot be halved.
    """
    leaves = arrays_of(without_optionals(batch))
    replicas = [getattr(leaf, "values", None) for leaf in leaves]
    if not isinstance(replicas[0], tuple):
        return check_rows([_eager_rows(leaf) for leaf in leaves])
    return min(
        check_rows([_eager_rows(leaf) for leaf in leaves])
        for leaves in zip(*replicas, strict=True)
    )


def _eager_rows(leaf):
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        return int(dynamic_num_rows(leaf))
    return np.shape(leaf)[0] if len(leaf.shape) else None
