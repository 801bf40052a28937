"""The state of a model, put back to the bit, on every replica."""

import contextlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from keras_svag.backend.model import (
    layers_of,
    notes_kept,
    reset_new_metrics,
    state_of,
)


@contextlib.contextmanager
def preserved_state(model, trains=False):
    """Context after which a model's state is what it was before, to the bit.

    State is every variable of the model on every replica (weights, moving
    statistics, random seeds), TensorFlow's own in its layers, Keras's global
    seed, metrics, and the losses that layers added in their last call. Metrics
    that were not built before are reset. It is restored when the body raises,
    too.

    Args:
        model: a `keras.Model`, built.
        trains: whether the optimizer's variables are among them.
    """
    known = state_of(model, trains)
    parts = [part for variable in known for part in replicas(variable)]
    values = [
        (part, tf.identity(part))
        for part in (*parts, *tensorflow_variables(model))
    ]
    try:
        with notes_kept(model), eager_seeds_kept():
            yield
    finally:
        for part, value in values:
            part.assign(value)
        reset_new_metrics(model, known)


@contextlib.contextmanager
def eager_seeds_kept():
    """Context after which `tf.random` draws eagerly as it would have before.

    Once a seed was set, TensorFlow takes a seed for each call from a generator
    of Python's. Within the context these seeds are others: where TensorFlow
    meets a seed again, it draws the numbers that follow the first ones.
    """
    generator = getattr(context.context(), "_rng", None)
    if generator is None:
        yield
        return
    state = generator.getstate()
    generator.seed(generator.getrandbits(64))
    try:
        yield
    finally:
        generator.setstate(state)


def tensorflow_variables(model):
    """Variables of TensorFlow in the layers that Keras does not know.

    They are attributes of the layers, or stand in lists and dicts that are.
    """
    for layer in layers_of(model):
        for value in _leaves(vars(layer)):
            if isinstance(value, tf.random.Generator):
                value = value.state
            if isinstance(value, tf.Variable):
                yield from replicas(value)


def _leaves(value):
    # As `keras.tree.flatten`, which cannot order keys of several types.
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def replicas(variable):
    """The TensorFlow variable of each local replica, or the only one."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    strategy = tf.distribute.get_strategy()
    strategy = getattr(value, "distribute_strategy", strategy)
    return strategy.experimental_local_results(value)


def replica_values(strategy, variables):
    """Every replica's own value of each variable.

    Metrics add up on each replica apart, and running averages of
    BatchNormalization are each replica's own: reading such a variable gives
    a sum, or one replica's value, from which training would go on otherwise.

    All workers have to call this at the same step, for they exchange values.

    Args:
        strategy: the `tf.distribute.Strategy` of the variables.
        variables: list of built `keras.Variable`s of numbers that float64
            holds exactly.

    Returns:
        A list of arrays, one of each variable, of shape `(num_replicas,
        *variable.shape)`: the same on all the workers.
    """
    parts = [replicas(variable) for variable in variables]
    own = {
        replica: np.concatenate(
            [np.zeros(0), *(np.ravel(p[index].numpy()) for p in parts)]
        )
        for index, replica in enumerate(_replica_ids(strategy))
    }
    rows = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(own[context.replica_id_in_sync_group][None])
    )
    gathered = strategy.gather(rows, axis=0).numpy()
    ends = np.cumsum([int(np.prod(v.shape)) for v in variables])
    return [
        values.reshape(-1, *variable.shape).astype(part[0].dtype.name)
        for values, variable, part in zip(
            np.split(gathered, ends[:-1], axis=1), variables, parts, strict=True
        )
    ]


def assign_replica_values(strategy, variables, values):
    """Gives every replica its own value back.

    Args:
        strategy: the `tf.distribute.Strategy` of the variables.
        variables: list of built `keras.Variable`s.
        values: what `replica_values` returned, under a strategy of the same
            number of replicas.
    """
    ids = _replica_ids(strategy)
    for variable, value in zip(variables, values, strict=True):
        for part, replica in zip(replicas(variable), ids, strict=True):
            part.assign(value[replica])


def _replica_ids(strategy):
    """Numbers of this process's replicas among those of all the workers."""
    ids = strategy.run(
        lambda: tf.distribute.get_replica_context().replica_id_in_sync_group
    )
    return [int(index) for index in strategy.experimental_local_results(ids)]
