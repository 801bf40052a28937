"""Batches of TensorFlow: ragged and sparse tensors, and unknown rows."""

import tensorflow as tf
from keras import tree

from keras_svag.backend.batches import (
    first_with_rows,
    has_rows,
    map_arrays,
    map_rows,
)

_OPTIONAL = tf.experimental.Optional


def without_optionals(batch):
    """The batch with None for the parts that `fit` marks as missing."""
    return tree.map_structure(
        lambda leaf: None if isinstance(leaf, _OPTIONAL) else leaf, batch
    )


def first_rows(batch, most):
    """At most so many rows of a batch, of one replica if there are several."""

    def rows(leaf):
        values = getattr(leaf, "values", None)
        leaf = values[0] if isinstance(values, tuple) else leaf
        if isinstance(leaf, tf.SparseTensor):
            first = tf.zeros_like(leaf.dense_shape)
            size = tf.concat([[most], leaf.dense_shape[1:]], axis=0)
            return tf.sparse.slice(leaf, first, size)
        return leaf[:most] if has_rows(leaf) else leaf

    return map_arrays(rows, without_optionals(batch))


def num_rows(batch):
    """Number of examples of a batch; None if its shape does not say it."""
    shape = tf.TensorShape(first_with_rows(batch).shape)
    return None if not shape.rank else shape[0]


def dynamic_num_rows(batch):
    """Number of examples: an integer if it is static, else a tensor."""
    rows = num_rows(batch)
    return _rows(first_with_rows(batch)) if rows is None else rows


def halves(batch):
    """The batch of rows 0, 2, 4, … and that of rows 1, 3, 5, …."""
    return tuple(
        map_rows(lambda leaf, i=i: _every_other_row(leaf, i), batch)
        for i in (0, 1)
    )


def even_number_of_rows(batch):
    """The batch without its last row if it has an odd number of them."""
    rows = dynamic_num_rows(batch)
    if isinstance(rows, int) and rows % 2 == 0:
        return batch
    return map_rows(lambda leaf: leaf[: rows - rows % 2], batch)


def _rows(leaf):
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int32)
    return tf.shape(leaf)[0]


def _every_other_row(leaf, start):
    if isinstance(leaf, tf.SparseTensor):
        kept = leaf.indices[:, 0] % 2 == start
        rows = (leaf.dense_shape[:1] + 1 - start) // 2
        halved = tf.constant([2] + [1] * (leaf.shape.rank - 1), tf.int64)
        return tf.SparseTensor(
            tf.boolean_mask(leaf.indices, kept) // halved,
            tf.boolean_mask(leaf.values, kept),
            tf.concat([rows, leaf.dense_shape[1:]], 0),
        )
    rows = leaf.shape[0]
    if rows is None:
        rows = _rows(leaf)
    # A slice with a stride is ten times as slow. XLA compiles this for batches
    # of no rows, which are never split.
    return tf.gather(leaf, tf.range(start, tf.maximum(rows, start), 2))
