"""A batch: arrays or tensors in any nest, of which parts may be None."""

import math

import numpy as np
import tensorflow as tf
from keras import tree


def arrays_of(batch):
    """The arrays of a batch, as a list."""
    return [leaf for leaf in tree.flatten(batch) if leaf is not None]


def map_arrays(function, batch):
    """The batch with `function` of each array in its place."""
    return tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), batch
    )


def num_rows(batch):
    """Number of examples of a batch; None if its shape does not say it."""
    shape = tf.TensorShape(arrays_of(batch)[0].shape)
    return None if shape.rank is None else shape[0]


def dynamic_num_rows(batch):
    """Number of examples: an integer if it is static, else a float tensor."""
    rows = num_rows(batch)
    if rows is not None:
        return rows
    return tf.cast(tf.shape(arrays_of(batch)[0])[0], "float32")


def even_number_of_rows(batch):
    """The batch without its last row if it has an odd number of them."""
    rows = num_rows(batch)
    if rows is not None and rows % 2 == 0:
        return batch
    if rows is None:
        rows = tf.shape(arrays_of(batch)[0])[0]
    return map_arrays(lambda leaf: leaf[: rows - rows % 2], batch)


def interleaved_halves(batch):
    """The batch of rows 0, 2, 4, … and that of rows 1, 3, 5, …."""
    rows = num_rows(batch)
    if rows is None:
        rows = tf.shape(arrays_of(batch)[0])[0]

    def every_other_row(start):
        # A slice with a stride is ten times as slow. XLA compiles this for
        # batches of no rows, which are never split.
        index = tf.range(start, tf.maximum(rows, start), 2)
        return map_arrays(lambda leaf: tf.gather(leaf, index), batch)

    return every_other_row(0), every_other_row(1)


def num_examples(x, validation_split=0.0):
    """Rows of the arrays that `fit` trains on; None if it gets no arrays.

    Args:
        x, validation_split: as given to `fit`.
    """
    leaves = arrays_of(x)
    if isinstance(x, tf.data.Dataset) or not getattr(leaves[0], "shape", ()):
        return None
    # As Keras splits them.
    return math.floor(leaves[0].shape[0] * (1.0 - validation_split))


def fed_batch_size(x, batch_size, examples):
    """Rows of the batches that `fit` makes of its data; None if they vary.

    Args:
        x, batch_size: as given to `fit`.
        examples: what `num_examples` says of `x`.
    """
    if examples is not None:
        return min(batch_size or 32, examples)
    if isinstance(x, tf.data.Dataset):
        shape = getattr(arrays_of(x.element_spec)[0], "shape", None)
        return shape[0] if shape is not None and shape.rank else None
    return None


def first_rows(data, most):
    """At most `most` rows of arrays or tensors; None of any other data."""
    arrays = arrays_of(data)
    if not arrays or not all(
        isinstance(array, (np.ndarray, tf.Tensor)) for array in arrays
    ):
        return None
    return map_arrays(lambda array: array[:most], data)
