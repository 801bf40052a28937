"""What takes the place of TensorFlow's train functions for one call."""

import collections
import weakref

import numpy as np
import tensorflow as tf

from keras_svag.backend import train_function
from keras_svag.backend.batches import arrays_of, check_rows
from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    without_optionals,
)
from keras_svag.backend.train_function import TrainFunction


class Feed(train_function.Feed):
    """Gives a train function batches by an iterator as that of `fit`.

    From any other iterator Keras would call its step by another program, in
    which what draws by `tf.random` begins anew, and a train function of the
    model's own may take no other. Making one takes as long as many steps, so
    that it is kept until it was read to its end, as where a call is cut in two.
    """

    def __init__(self):
        self._dataset, self._batches = None, collections.deque()
        # TensorFlow complains of an iterator that lives when Python ends.
        self._kept = []
        weakref.finalize(self, self._kept.clear)

    def __reduce__(self):
        return type(self), ()

    def __call__(self, batches, data):
        if not isinstance(data, tf.data.Iterator):
            return iter(batches)
        made, spec = self._dataset, data.element_spec
        if made is None or made.element_spec != spec:
            self._kept.clear()
            self._dataset = self._made(spec)
        if not self._kept:
            self._kept.append(iter(self._dataset))
        # An exception may have left some that nobody has read.
        self._batches.clear()
        self._batches.extend(batches)
        return self._kept[0]

    def _made(self, element_spec):
        batches, kept = self._batches, self._kept

        def drawn():
            while batches:
                yield batches.popleft()
            kept.clear()

        dataset = tf.data.Dataset.from_generator(
            drawn, output_signature=element_spec
        )
        # Nothing is drawn ahead.
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        return dataset.with_options(options)


class FirstCall(TrainFunction):
    """Looks at what the iterator of `fit` declares, and draws nothing.

    Args:
        model: The model.
        feed: The `Feed` of the `fit`.
        note: Function of whether batches may differ in their rows.
    """

    def __init__(self, model, feed, note):
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
