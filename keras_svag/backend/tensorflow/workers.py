"""Training over several replicas and workers, and where Keras's own fails."""

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.framework import config as framework_config


def is_chief(strategy):
    """Whether this process is the one that writes files.

    All the workers have to compute what is written: reading a metric is an
    exchange between them.
    """
    return strategy.extended.should_save_summary


def writes_files(model):
    """Whether this process is the one that writes for a model."""
    return is_chief(model.distribute_strategy)


def is_one_process(model):
    """Whether no other process trains the model too."""
    return not has_several_workers(model.distribute_strategy)


def has_several_workers(strategy):
    """Whether `strategy` trains over more than one process."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def is_deterministic():
    """Whether TensorFlow was told to give the same bits on every run."""
    return framework_config.is_op_determinism_enabled()


def count_loss(model, loss, rows):
    """Counts the loss of so many rows of a replica in the epoch's mean."""
    # Keras divides a loss by the number of replicas.
    loss *= model.distribute_strategy.num_replicas_in_sync
    model._loss_tracker.update_state(loss, sample_weight=rows)


class MultiWorkerModel(keras.Model):
    """A `keras.Model` whose `fit` works over several workers too.

    Keras's own `fit` fails there, and where the first batch splits unevenly
    over the replicas. With one replica nothing is changed.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras draws a batch and reduces it over the replicas, which fails
        # where it splits unevenly and over several workers. Shapes will do.
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            _keep_static_shapes(iterator)
            data = iterator.data_adapter.get_tf_dataset()
            if isinstance(data, tf.data.Dataset):
                replicas = strategy.num_replicas_in_sync
                data_batch = tree.map_structure(
                    lambda spec: _of_one_replica(spec, replicas),
                    data.element_spec,
                )
                iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _make_function(self, step_function):
        if has_several_workers(self.distribute_strategy):
            step_function = _with_logs_as_vectors(step_function)
        return super()._make_function(step_function)


def _of_one_replica(spec, replicas):
    shape = getattr(spec, "shape", None)
    if shape is None:
        return None  # An optional part of a batch that is not there.
    if not shape.rank:
        return spec
    rows, *rest = shape
    if rows is not None:
        rows = rows // replicas if rows % replicas == 0 else None
    return tf.TensorSpec([rows, *rest], spec.dtype)


def _keep_static_shapes(epoch_iterator):
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


def _with_logs_as_vectors(step_function):
    """A training or test step whose logs are vectors of one element.

    Keras averages the logs over the workers along their first axis, which
    scalars do not have: the average takes the axis away again.
    """

    def step(data):
        return tree.map_structure(lambda log: log[None], step_function(data))

    return step
