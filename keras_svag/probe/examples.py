"""Single examples, from arrays or a data set, put together to mini-batches."""

import functools
import itertools
import math

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_svag.models.batches import arrays_of, map_arrays

# The drawn examples of as many batches as this holds are read in one pass.
_BYTES_PER_PASS = 2**30


def open_examples(dataset, model):
    """Opens a data set of single examples for random access.

    Args:
        dataset: a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of (nests
            of) arrays, or a finite, unbatched `tf.data.Dataset` of the same.
        model: the model that they are for, to tell examples from batches.

    Returns:
        An object with `num_examples` and `batches(indices)`.

    Raises:
        TypeError: if `dataset` is neither of the two.
        ValueError: if it is batched, infinite, of unknown size, empty, or of
            arrays that differ in their number of rows.
    """
    if isinstance(dataset, tf.data.Dataset):
        return _DatasetExamples(dataset, model)
    if isinstance(dataset, (tuple, list)) and 1 <= len(dataset) <= 3:
        return _ArrayExamples(tuple(dataset), model)
    raise TypeError(
        "`dataset` must be a tuple of arrays (x, y) or (x, y, sample_weight) "
        "or an unbatched tf.data.Dataset of these, got "
        f"{type(dataset).__name__}."
    )


class _ArrayExamples:
    def __init__(self, arrays, model):
        self._arrays = map_arrays(_as_array, arrays)
        leaves = arrays_of(self._arrays)
        rows = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        if len(rows) != 1 or None in rows or 0 in rows:
            raise ValueError(
                "The arrays of `dataset` must have one and the same number of "
                "rows, at least 1, got shapes "
                f"{', '.join(str(tuple(leaf.shape)) for leaf in leaves)}."
            )
        self.num_examples = int(rows.pop())
        shapes = [leaf.shape[1:] for leaf in leaves]
        _check_unbatched(shapes, len(arrays_of(arrays[0])), model)

    def batches(self, indices):
        """Yields one batch of tensors for each vector of `indices`."""
        for rows in indices:
            yield map_arrays(functools.partial(_take, rows), self._arrays)


class _DatasetExamples:
    """Reads the data set once per GiB of examples drawn, and keeps only them.

    A data set need be neither in memory nor in random order for that.
    """

    def __init__(self, dataset, model):
        self._dataset = dataset
        size = int(dataset.cardinality())
        if size == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "`dataset` must be finite, got an infinite tf.data.Dataset; "
                "leave out .repeat(), or add .take(num_examples)."
            )
        if size == tf.data.UNKNOWN_CARDINALITY:
            raise ValueError(
                "`dataset` must have a known size, got a tf.data.Dataset of "
                "unknown cardinality; add .apply("
                "tf.data.experimental.assert_cardinality(num_examples))."
            )
        if size == 0:
            raise ValueError("`dataset` must have examples, got an empty one.")
        self.num_examples = size
        specs = arrays_of(dataset.element_spec)
        for spec in specs:
            if not isinstance(spec, tf.TensorSpec):
                raise ValueError(
                    "`dataset` must consist of dense tensors, got "
                    f"{type(spec).__name__}; convert them with .map()."
                )
        shapes = [spec.shape for spec in specs]
        element = dataset.element_spec
        x = element[0] if isinstance(element, tuple) else element
        _check_unbatched(shapes, len(arrays_of(x)), model)
        self._bytes = sum(
            spec.dtype.size * math.prod(d or 1 for d in spec.shape)
            for spec in specs
        )

    def batches(self, indices):
        """Yields one batch of tensors for each vector of `indices`."""
        indices = iter(indices)
        for first in indices:
            budget = _BYTES_PER_PASS // max(1, self._bytes * len(first))
            group = [first, *itertools.islice(indices, max(0, budget - 1))]
            examples = self._read(np.unique(np.concatenate(group)))
            for rows in group:
                drawn = [examples[row] for row in rows]
                yield tree.map_structure(
                    lambda *leaves: tf.convert_to_tensor(np.stack(leaves)),
                    *drawn,
                )

    def _read(self, rows):
        wanted = np.zeros(self.num_examples, bool)
        wanted[rows] = True
        wanted = tf.constant(wanted)
        kept = self._dataset.enumerate().filter(
            lambda index, _: tf.gather(wanted, index)
        )
        # Without `take` it would read on to the end.
        return dict(kept.take(len(rows)).as_numpy_iterator())


def _check_unbatched(shapes, num_inputs, model):
    """Raises if what should be examples are batches, as far as it shows.

    Args:
        shapes: of all arrays of one example, the inputs first.
        num_inputs: how many of them are inputs.
        model: whose inputs say what rank a batch has.
    """
    inputs = getattr(getattr(model, "model", model), "inputs", None)
    expected = tree.flatten(inputs) if inputs else []
    batched = all(len(shape) and shape[0] is None for shape in shapes)
    if len(expected) == num_inputs:
        batched |= any(
            len(shape) >= len(batch.shape)
            for shape, batch in zip(shapes, expected, strict=False)
        )
    if batched:
        raise ValueError(
            "`dataset` must consist of single examples, got batches of inputs "
            f"with shapes {', '.join(str(tuple(s)) for s in shapes)} each; "
            "leave out .batch(), or add .unbatch(): the probe draws its own "
            "mini-batches."
        )


def _as_array(leaf):
    return leaf if isinstance(leaf, tf.Tensor) else np.asarray(leaf)


def _take(rows, leaf):
    if isinstance(leaf, tf.Tensor):
        return tf.gather(leaf, rows)
    batch = leaf[rows]
    # As Keras does with the arrays that are given to fit.
    if batch.dtype == np.float64:
        batch = batch.astype(keras.config.floatx())
    return tf.convert_to_tensor(batch)
