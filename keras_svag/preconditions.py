"""Without these there is no check of the linear scaling rule: one sentence."""

import numbers

import numpy as np

from keras_svag.probe.examples import open_examples


def checked_verbosity(verbose):
    """`verbose`, if it is 0 or 1."""
    if not isinstance(verbose, numbers.Integral) or verbose not in (0, 1):
        raise ValueError(f"`verbose` must be 0 or 1, got {verbose!r}.")
    return verbose


def checked_invariance(scale_invariant):
    """`scale_invariant`, if it is None, a boolean or may be a batch."""
    if isinstance(scale_invariant, np.bool_):
        return bool(scale_invariant)
    if isinstance(scale_invariant, bool):
        return scale_invariant
    if isinstance(scale_invariant, (str, numbers.Number)):
        raise ValueError(
            "`scale_invariant` must be None, True, False or a batch of inputs, "
            f"got {scale_invariant!r}."
        )
    return scale_invariant


def check_trainable_weights(model):
    """Raises if a built model has nothing to train."""
    if model.built and not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable weights, so there is "
            "no gradient whose noise could be measured; make a layer trainable."
        )


def check_metric(metric):
    """Raises if there is no noise metric."""
    if metric is None:
        raise ValueError(
            "LinearScalingRuleCheck found no gradient noise to read: wrap the "
            "model in keras_svag.SVAGModel(model), with measure_noise, or pass "
            "probe=(x, y)."
        )


def check_probe(data, model, batch_size):
    """Raises if a probe could not draw a batch from `data`."""
    num_examples = open_examples(data, model).num_examples
    if num_examples < batch_size:
        raise ValueError(
            f"`probe` must have at least {batch_size:,} examples, those of a "
            f"batch, got {num_examples:,}."
        )


def check_window(window, epochs):
    """Raises if the window is longer than a run of so many epochs."""
    if window and epochs and window > epochs:
        raise ValueError(
            f"`window` must be at most the {epochs} epochs of the run, got "
            f"{window}."
        )


def check_sizes(metric, batch_size, num_examples):
    """Raises if the metric knows of other sizes, as far as it knows any."""
    if metric.batch_size not in (None, batch_size):
        raise ValueError(
            f"`batch_size` must be {metric.batch_size}, at which the noise of "
            f"this run is measured, got {batch_size}; it is the batch size of "
            "the SGD that is simulated, over all replicas: half of the batches "
            "that are fed for SVAG with pairing='independent', otherwise all "
            "of them."
        )
    if num_examples is not None and metric.num_examples not in (
        None,
        num_examples,
    ):
        raise ValueError(
            f"`num_examples` must be {metric.num_examples}, as the SVAGModel "
            f"was told, or left out, got {num_examples}."
        )
