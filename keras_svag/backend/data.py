"""Batches of whatever `fit` takes: drawn from arrays, or as they come."""

import collections.abc
import itertools
import sys

import keras
from keras import ops, tree
from keras.src.trainers.data_adapters import (
    array_slicing,
    data_adapter_utils,
)

from keras_svag.backend.batches import arrays_of, map_arrays

# Operations of TensorFlow.
_CALLS_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


class ArrayRows:
    """Rows of arrays, as `fit` takes them from arrays.

    Args:
        arrays: An array or a dict of arrays x, or a tuple `(x, y)` or `(x, y,
            sample_weight)` of (nests of) these: of NumPy, pandas, SciPy, or
            tensors, ragged and sparse ones too. See `are_arrays`.
        name: Of the argument, for what is said of it.

    Attributes:
        num_rows: The number of examples.

    Raises:
        TypeError: If `arrays` are none.
        ValueError: If they differ in their number of rows or have none.
    """

    def __init__(self, arrays, name="data"):
        if not are_arrays(arrays):
            raise TypeError(
                f"`{name}` must be arrays x, or a tuple (x, y) or (x, y, "
                f"sample_weight) of arrays, got {type(arrays).__name__}."
            )
        shapes = [tuple(array.shape) for array in arrays_of(arrays)]
        rows = {shape[0] if shape else 0 for shape in shapes}
        if len(rows) != 1 or 0 in rows:
            raise ValueError(
                f"`{name}` must be arrays with one and the same number of "
                "rows, at least 1, got shapes "
                f"{', '.join(map(str, shapes)) or 'of no array'}."
            )
        (self.num_rows,) = rows
        self._arrays = array_slicing.convert_to_sliceable(arrays)

    def take(self, rows):
        """A batch of tensors.

        Args:
            rows: NumPy vector of the indices of its rows.
        """
        return map_arrays(
            lambda array: _tensor(_compatible(array)(array[rows])),
            self._arrays,
        )


def are_arrays(data):
    """Whether data are arrays, not batches: see `ArrayRows`."""
    is_nest = isinstance(data, (dict, tuple))
    return (is_nest or not tree.is_nested(data)) and all(
        map(array_slicing.can_slice_array, tree.flatten(data))
    )


def runs_python(dataset):
    """Whether a `tf.data.Dataset` calls Python, in threads of its own.

    It may, if a strategy has distributed it already, or if a function in it
    uses a data set from outside.
    """
    # It is there, or there would be no such data set.
    import tensorflow as tf

    if not isinstance(dataset, tf.data.Dataset):
        return True
    graphs = [f.function.graph for f in dataset._functions()]
    if any(t.dtype == tf.variant for g in graphs for t, _ in g.captures):
        return True
    graphs = [graph.as_graph_def() for graph in graphs]
    nodes = itertools.chain(
        *(graph.node for graph in graphs),
        *(f.node_def for graph in graphs for f in graph.library.function),
    )
    return any(node.op in _CALLS_PYTHON for node in nodes) or any(
        map(runs_python, dataset._inputs())
    )


def batches_of(data, name="data"):
    """Yields the batches of data that are no arrays, as tensors.

    Args:
        data: A `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or
            another iterable of batches.
        name: Of the argument, for what is said of it.

    Raises:
        TypeError: If `data` is none of these.
    """
    if (
        isinstance(data, (str, bytes))
        or _is_distributed(data)
        or not isinstance(data, collections.abc.Iterable)
    ):
        raise TypeError(
            f"`{name}` must be arrays x, a tuple (x, y) or (x, y, "
            "sample_weight) of arrays, or batches of them: a tf.data.Dataset "
            "that is not distributed, a PyDataset, a generator or another "
            f"iterable, got {type(data).__name__}."
        )
    if isinstance(data, keras.utils.PyDataset):
        size = data.num_batches
        indices = itertools.count() if size is None else range(size)
        data = map(data.__getitem__, indices)
    return (map_arrays(_tensor, batch) for batch in data)


def _is_distributed(data):
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        data, tensorflow.distribute.DistributedDataset
    )


def _compatible(array):
    """What makes a slice of an array fit for Keras's backend."""
    if keras.backend.backend() == "tensorflow":
        return array.convert_to_tf_dataset_compatible
    if keras.backend.backend() == "jax":
        return array.convert_to_jax_compatible
    return array.convert_to_torch_compatible


def _tensor(array):
    if isinstance(array, array_slicing.TensorflowSparseWrapper):
        return array.sparse
    if data_adapter_utils.is_scipy_sparse(array):
        if keras.backend.backend() == "tensorflow":
            return data_adapter_utils.scipy_sparse_to_tf_sparse(array)
        if keras.backend.backend() == "jax":
            return data_adapter_utils.scipy_sparse_to_jax_sparse(array)
        array = array.toarray()
    return ops.convert_to_tensor(array)
