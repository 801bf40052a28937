import contextlib

import tensorflow as tf
from keras.src.backend.common import global_state

_GLOBAL_SEED = "global_seed_generator"


@contextlib.contextmanager
def preserved_state(model):
    """Context after which a model's state is what it was before, to the bit.

    State is every variable of the model on every replica (weights, moving
    statistics, random seeds), Keras's global seed, metrics, and the losses
    that layers added in their last call. Metrics that were not built before
    are reset. The optimizer is not looked after. It is restored when the body
    raises, too.

    Args:
        model: a `keras.Model`, built.
    """
    layers = model._flatten_layers()
    losses = [(x, list(x._losses), set(x._loss_ids)) for x in layers]
    global_seed = global_state.get_global_attribute(_GLOBAL_SEED)
    variables = _variables(model)
    if global_seed is not None:
        variables.append(global_seed.state)
    values = [
        (part, tf.identity(part))
        for variable in variables
        for part in replicas(variable.value)
    ]
    try:
        yield
    finally:
        for part, value in values:
            part.assign(value)
        global_state.set_global_attribute(_GLOBAL_SEED, global_seed)
        known = {id(v) for v in variables}
        for metric in _metrics(model):
            if not known.issuperset(id(v) for v in metric.variables):
                metric.reset_state()
        for layer, own, ids in losses:
            layer._losses[:] = own
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def _variables(model):
    variables = list(model.variables)
    for metric in _metrics(model):
        variables += metric.variables
    return list({id(v): v for v in variables}.values())


def _metrics(model):
    metrics = list(model.metrics)
    for layer in model._flatten_layers(include_self=False):
        metrics += layer.metrics
    return metrics


def replicas(value):
    """The TensorFlow variable of each local replica, or the only one.

    Args:
        value: the `value` of a `keras.Variable`.
    """
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None:
        strategy = tf.distribute.get_strategy()
    return strategy.experimental_local_results(value)
