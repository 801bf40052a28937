"""Single examples, from whatever `fit` takes, put together to mini-batches."""

import collections.abc
import functools
import itertools
import math
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_svag.models.batches import arrays_of, map_arrays
from keras_svag.models.wrapper import ModelWrapper

# The drawn examples of as many batches as this holds are read in one pass.
_BYTES_PER_PASS = 2**30

# More than data sets have whose size is not known, as a rule: who counts as
# far is told that there may be no end.
_MANY_EXAMPLES = 2_000_000

_EMPTY = "`dataset` must have examples, got an empty one."

_TAKEN = (
    "data as fit takes them: an array or a dict of arrays x, a tuple (x, y) "
    "or (x, y, sample_weight) of such, a tf.data.Dataset, a "
    "keras.utils.PyDataset, or a function that returns a generator of batches"
)


def open_examples(dataset, model):
    """Opens a data set for random access to its examples.

    Args:
        dataset: whatever `fit` takes and can be read more than once: an array
            or a dict of arrays x; a tuple `(x,)`, `(x, y)` or `(x, y,
            sample_weight)` of (nests of) these; a finite `tf.data.Dataset` or
            a `keras.utils.PyDataset` of batches of the same; a function that
            returns a generator of batches, or an object that can be iterated
            over anew. A `tf.data.Dataset` may consist of single examples too.
            What was opened already is returned as it is.
        model: the model that they are for, to tell examples from batches.

    Returns:
        An object with
        `num_examples`; where the data set does not say it, it is counted when
            it is first asked for, which takes a pass;
        `is_counted`: whether it is known;
        `first(size)`: a batch of the first examples, without counting;
        `batches(indices)`.

    Raises:
        TypeError: if `dataset` is none of these, or can be read only once.
        ValueError: if it is infinite, empty, of arrays that differ in their
            number of rows, or not of dense arrays. Some of this shows only
            when it is read.
    """
    if isinstance(dataset, _Examples):
        return dataset
    if isinstance(dataset, tf.data.Dataset):
        return _open_dataset(dataset, model)
    if isinstance(dataset, keras.utils.PyDataset):
        return _PyDatasetExamples(dataset, model)
    if isinstance(dataset, (tuple, list)):
        if 1 <= len(dataset) <= 3 and dataset[0] is not None:
            return _ArrayExamples(tuple(dataset), model)
    elif _is_array(dataset) or isinstance(dataset, dict):
        return _ArrayExamples((dataset,), model)
    elif isinstance(dataset, collections.abc.Iterator):
        raise TypeError(
            "`dataset` must be readable more than once, got a "
            f"{type(dataset).__name__}, which ends after one pass; give the "
            "function that returns it, or what it iterates over."
        )
    elif _can_be_restarted(dataset):
        return _StreamExamples(dataset, model)
    raise TypeError(
        f"`dataset` must be {_TAKEN}, got {type(dataset).__name__}."
    )


def _is_array(dataset):
    return hasattr(dataset, "__array__") or _is_sparse(dataset)


def _can_be_restarted(dataset):
    if isinstance(dataset, (str, bytes, type, keras.layers.Layer)):
        return False
    # Its batches lie on several devices.
    if isinstance(dataset, tf.distribute.DistributedDataset):
        return False
    return callable(dataset) or isinstance(dataset, collections.abc.Iterable)


class _Examples:
    """What `open_examples` returns."""

    @property
    def is_counted(self):
        return "num_examples" in self.__dict__


class _ArrayExamples(_Examples):
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
        _check_ranks(self._arrays, model)

    def first(self, size):
        """The first `size` examples, or all if there are fewer."""
        rows = np.arange(min(size, self.num_examples))
        return next(self.batches([rows]))

    def batches(self, indices):
        """Yields one batch of tensors for each vector of `indices`."""
        for rows in indices:
            yield map_arrays(functools.partial(_take, rows), self._arrays)


class _ReadExamples(_Examples):
    """Reads the data set once per GiB of examples drawn, and keeps only them.

    It need be neither in memory nor in random order for that. Subclasses have
    `_read(rows)`, which returns a dict of the examples at the sorted `rows`,
    without those that lie behind the end, and `_count()`.
    """

    @functools.cached_property
    def num_examples(self):
        count = self._count()
        if not count:
            raise ValueError(_EMPTY)
        return count

    def first(self, size):
        """The first `size` examples, or all if there are fewer."""
        examples = self._read(np.arange(size))
        if not examples:
            raise ValueError(_EMPTY)
        return _stack([examples[row] for row in sorted(examples)])

    def batches(self, indices):
        """Yields one batch of tensors for each vector of `indices`."""
        indices = iter(indices)
        for first in indices:
            budget = _BYTES_PER_PASS // max(1, self._bytes * len(first))
            group = [first, *itertools.islice(indices, max(0, budget - 1))]
            rows = np.unique(np.concatenate(group))
            examples = self._read(rows)
            if len(examples) < len(rows):
                raise ValueError(
                    "`dataset` must have the same number of examples whenever "
                    f"it is read, got fewer than the {self.num_examples:,} "
                    "that were counted."
                )
            for rows in group:
                yield _stack([examples[row] for row in rows])

    @functools.cached_property
    def _bytes(self):
        """Of one example."""
        (example,) = self._read(np.zeros(1, int)).values() or [()]
        return sum(np.asarray(leaf).nbytes for leaf in arrays_of(example))


def _open_dataset(dataset, model):
    element = dataset.element_spec
    for spec in arrays_of(element):
        if not isinstance(spec, tf.TensorSpec):
            raise ValueError(_not_dense(spec))
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`dataset` must be finite, got an infinite tf.data.Dataset; "
            "leave out .repeat(), or cut it with .take()."
        )
    opened, single = _DatasetExamples(dataset), dataset
    if _are_batches(element, model):
        _check_ranks(element, model)
        # Several times as fast as to read what `unbatch` returns.
        opened = _StreamExamples(dataset.as_numpy_iterator, model)
        single = dataset.unbatch()
    size = int(single.cardinality())
    if size == 0:
        raise ValueError(_EMPTY)
    if size != tf.data.UNKNOWN_CARDINALITY:
        opened.num_examples = size
    return opened


class _DatasetExamples(_ReadExamples):
    """The examples of a `tf.data.Dataset` of single ones."""

    def __init__(self, dataset):
        self._dataset = dataset

    @functools.cached_property
    def _bytes(self):
        specs = arrays_of(self._dataset.element_spec)
        if not all(spec.shape.is_fully_defined() for spec in specs):
            return super()._bytes
        return sum(
            spec.dtype.size * spec.shape.num_elements() for spec in specs
        )

    def _count(self):
        # Only the ones are put into batches, not the examples.
        ones = self._dataset.map(lambda *_: True).batch(1024)
        return _total(chunk.size for chunk in ones.as_numpy_iterator())

    def _read(self, rows):
        wanted = np.zeros(rows[-1] + 1, bool)
        wanted[rows] = True
        # Without `take` it would read on to the end.
        kept = self._dataset.take(wanted.size).enumerate()
        wanted = tf.constant(wanted)
        kept = kept.filter(lambda index, _: tf.gather(wanted, index))
        return dict(kept.as_numpy_iterator())


class _StreamExamples(_ReadExamples):
    """The examples of batches from a generator that can be started anew."""

    def __init__(self, source, model):
        self._source = source
        self._model = model

    def _batches(self):
        """Yields all batches, as arrays, with their numbers of rows."""
        source = self._source
        if not isinstance(source, collections.abc.Iterable):
            source = source()
        if not isinstance(source, collections.abc.Iterable):
            raise TypeError(
                "`dataset` must be a function that returns a generator of "
                f"batches, got one that returns {type(source).__name__}."
            )
        for batch in source:
            yield self._checked(batch)

    def _checked(self, batch):
        batch = map_arrays(lambda leaf: np.asarray(_as_array(leaf)), batch)
        shapes = [leaf.shape for leaf in arrays_of(batch)]
        rows = {shape[0] if shape else None for shape in shapes}
        if len(rows) != 1 or None in rows:
            raise ValueError(
                "`dataset` must yield batches of arrays that have the same "
                "number of rows, as fit takes them, got shapes "
                f"{', '.join(map(str, shapes))}."
            )
        _check_ranks(batch, self._model)
        return batch, rows.pop()

    def _count(self):
        return _total(size for _, size in self._batches())

    def _read(self, rows):
        examples, start = {}, 0
        for batch, size in self._batches():
            end = np.searchsorted(rows, start + size)
            for row in rows[len(examples) : end]:
                examples[row] = _example(batch, row - start)
            if len(examples) == len(rows):
                break
            start += size
        return examples


class _PyDatasetExamples(_StreamExamples):
    """The examples of a `PyDataset`, of which only some batches are read."""

    def __init__(self, source, model):
        if source.num_batches in (None, math.inf):
            raise ValueError(
                "`dataset` must be finite, got a PyDataset whose "
                f"`num_batches` is {source.num_batches}."
            )
        super().__init__(source, model)
        self._ends = None

    def _batches(self):
        for index in range(self._source.num_batches):
            yield self._checked(self._source[index])

    def _count(self):
        self._ends = np.cumsum([size for _, size in self._batches()])
        return int(self._ends[-1]) if self._ends.size else 0

    def _read(self, rows):
        if self._ends is None:
            return super()._read(rows)
        examples = {}
        rows = rows[rows < self._ends[-1]]
        places = np.searchsorted(self._ends, rows, side="right")
        for index in np.unique(places):
            batch, size = self._checked(self._source[int(index)])
            start = self._ends[index - 1] if index else 0
            for row in rows[places == index]:
                if row < start + size:
                    examples[row] = _example(batch, row - start)
        return examples


def _total(sizes):
    total, told = 0, False
    for size in sizes:
        total += int(size)
        if total >= _MANY_EXAMPLES and not told:
            told = True
            warnings.warn(
                "`dataset` does not say how many examples it has, and counting "
                f"them goes on after {total:,}; if it has no end, cut it, for "
                "example with .take() or itertools.islice.",
                stacklevel=2,
            )
    return total


def _are_batches(element, model):
    """Whether the elements of a data set are batches, not single examples.

    The model's inputs say it, if one of the two fits them and the other does
    not. Where both may be, it is as with `fit`, which takes batches.

    Args:
        element: nest of tensor specifications.
        model: for which they are.
    """
    x = keras.utils.unpack_x_y_sample_weight(element)[0]
    expected = _input_shapes(model, x)
    shapes = [spec.shape for spec in arrays_of(x)]
    if all(shape.rank is not None for shape in shapes) and expected:
        for fits in (_fits, _fits_reshaped):
            batches = all(map(fits, shapes, expected))
            examples = all(
                fits([None, *shape], input_shape)
                for shape, input_shape in zip(shapes, expected, strict=True)
            )
            if batches != examples:
                return batches
    shapes = [spec.shape for spec in arrays_of(element)]
    shapes = [shape for shape in shapes if shape.rank is not None]
    # A batch has one number of rows, which is known of all arrays or of none.
    return (
        all(shape.rank for shape in shapes)
        and len({shape[0] for shape in shapes}) <= 1
    )


def _check_ranks(data, model):
    """Raises if inputs have more axes than the model's, as far as it shows."""
    x = keras.utils.unpack_x_y_sample_weight(data)[0]
    expected = _input_shapes(model, x)
    shapes = [leaf.shape for leaf in arrays_of(x)]
    for shape, wanted in zip(shapes, expected or (), strict=False):
        if wanted is None or tf.TensorShape(shape).rank is None:
            continue
        if len(shape) > len(wanted) and not _fits_reshaped(shape, wanted):
            raise ValueError(
                "`dataset` must have inputs of as many axes as the model "
                f"takes, shape {tuple(wanted)}, got shape {tuple(shape)}; "
                "leave out what adds one, such as a second .batch()."
            )


def _input_shapes(model, x):
    """Of the model's inputs, one for each array of `x`; None if not known."""
    if isinstance(model, ModelWrapper):
        model = model.model
    inputs = tree.flatten(getattr(model, "inputs", None) or [])
    if isinstance(x, dict):
        shapes = {tensor.name: tensor.shape for tensor in inputs}
        # Keras ignores what is no input.
        if shapes and set(shapes) <= set(x) and not _is_nested(x):
            return [
                shapes.get(name) for name in sorted(x) if x[name] is not None
            ]
    if inputs and len(inputs) == len(arrays_of(x)):
        return [tensor.shape for tensor in inputs]
    return None


def _is_nested(x):
    return any(tree.is_nested(part) for part in x.values())


def _fits(shape, wanted):
    return wanted is None or tf.TensorShape(shape).is_compatible_with(
        tf.TensorShape(wanted)
    )


def _fits_reshaped(shape, wanted):
    """As `_fits`, if Keras adds or drops a last axis of length 1."""
    if wanted is None or _fits(shape, wanted):
        return True
    shape, wanted = list(shape), list(wanted)
    return (shape[-1:] == [1] and _fits(shape[:-1], wanted)) or (
        wanted[-1:] == [1] and _fits([*shape, 1], wanted)
    )


def _is_sparse(leaf):
    # Those of SciPy can be turned to CSR, all of them.
    return isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)) or hasattr(
        leaf, "tocsr"
    )


def _not_dense(value):
    return (
        f"`dataset` must consist of dense tensors, got {type(value).__name__}; "
        "convert it, in a tf.data.Dataset with .map()."
    )


def _as_array(leaf):
    if _is_sparse(leaf):
        raise ValueError(_not_dense(leaf))
    return leaf if isinstance(leaf, tf.Tensor) else np.asarray(leaf)


def _example(batch, row):
    # A view would keep the whole batch.
    return map_arrays(lambda leaf: np.copy(leaf[row]), batch)


def _stack(examples):
    def stacked(*leaves):
        if leaves[0] is None:
            return None
        shapes = {np.shape(leaf) for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(
                "`dataset` must have examples of one shape, got "
                f"{' and '.join(map(str, sorted(shapes)[:2]))}, which make no "
                "batch; pad all of them to one length."
            )
        return tf.convert_to_tensor(np.stack(leaves))

    return tree.map_structure(stacked, *examples)


def _take(rows, leaf):
    if isinstance(leaf, tf.Tensor):
        return tf.gather(leaf, rows)
    batch = leaf[rows]
    # As Keras does with the arrays that are given to fit.
    if batch.dtype == np.float64:
        batch = batch.astype(keras.config.floatx())
    return tf.convert_to_tensor(batch)
