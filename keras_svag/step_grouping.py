"""How many training steps one call into the graph should take."""

import math

# A call from Python costs about as much as this many multiply-adds of a small
# network, so more of them in a call are worth no more.
_MULTIPLY_ADDS_PER_CALL = 2e8
_MOST_STEPS_PER_CALL = 128


def steps_per_call(model, rows, steps_per_epoch, most=None):
    """Training steps of a call: more than 1 only where a step takes little.

    Several replicas take 1, for Keras cannot do more there. The results do
    not depend on it: callbacks and signals are looked at between calls.

    Args:
        model: a built model of layers that are each used once.
        rows: rows of a training step's batch.
        steps_per_epoch: training steps of an epoch, which have to fill whole
            calls.
        most: a number that must not be exceeded, or None.

    Returns:
        An integer >= 1 that divides `steps_per_epoch`.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return 1
    cost = rows * multiply_adds(model)
    most = min(
        _MOST_STEPS_PER_CALL,
        _MULTIPLY_ADDS_PER_CALL // max(cost, 1),
        math.inf if most is None else most,
        steps_per_epoch,
    )
    return max(
        (k for k in range(1, int(most) + 1) if steps_per_epoch % k == 0),
        default=1,
    )


def multiply_adds(model):
    """Multiplications of an example with kernels in one forward pass.

    A kernel is used once for each position of its layer's output: derived,
    exact for dense layers and convolutions.
    """
    total = 0
    for layer in model._flatten_layers(include_self=False):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            total += math.prod(kernel.shape) * math.prod(
                layer.output.shape[1:-1]
            )
    return total
