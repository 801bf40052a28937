"""What Keras's own `fit` lacks under `tf.distribute`'s several workers."""

import tensorflow as tf
from keras import tree


def has_several_workers(strategy):
    """Whether `strategy` trains over more than one process."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def with_logs_as_vectors(step_function):
    """A training or test step whose logs are vectors of one element.

    Keras averages the logs over the workers along their first axis, which
    scalars do not have: the average takes the axis away again.
    """

    def step(data):
        return tree.map_structure(lambda log: log[None], step_function(data))

    return step


def keep_static_shapes(epoch_iterator):
    """Keeps the batch size of an epoch's data static over several workers.

    TensorFlow distributes finite data with an unknown batch size there,
    because a last batch may be smaller. Where no batch is, data that repeat
    are the same, and Keras counts an epoch's batches by itself.

    Args:
        epoch_iterator: Keras's `TFEpochIterator`, not yet iterated over.
    """
    strategy = epoch_iterator._distribute_strategy
    data = epoch_iterator.data_adapter.get_tf_dataset()
    if (
        has_several_workers(strategy)
        and isinstance(data, tf.data.Dataset)
        and epoch_iterator.num_batches
        and all(
            spec.shape.is_fully_defined()
            for spec in tf.nest.flatten(data.element_spec)
        )
    ):
        epoch_iterator._distributed_dataset = (
            strategy.experimental_distribute_dataset(data.repeat())
        )
