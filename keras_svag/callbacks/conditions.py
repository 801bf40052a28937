"""Reads from a compiled model what the theory of its training assumes."""

import keras
import numpy as np
from keras import ops, tree

from keras_svag.models.internals import (
    decayed_variables,
    has_batch_normalization,
    has_epsilon_in_root,
    has_second_moments,
    inner_optimizer,
)
from keras_svag.models.ngd_model import NGDModel
from keras_svag.models.preconditioner import epsilon_ratio
from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.pairs import GradientNoise, squared_norm
from keras_svag.probe.examples import open_examples
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.scaling.conditions import (
    AdaptiveConditions,
    RunConditions,
    linear_scaling_refusal,
)

# Enough to normalize a batch by its own statistics.
_ROWS = 8
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def find_metric(model, preconditioned=False):
    """The `GradientNoise` among a model's metrics, or None.

    Args:
        model: A compiled `keras.Model`.
        preconditioned: Whether it is that of the scaled gradients.
    """
    for metric in model.metrics:
        if (
            isinstance(metric, GradientNoise)
            and metric.preconditioned == preconditioned
        ):
            return metric
    return None


def decayed_sq_norm(model):
    """R of the decayed variables, of all trainable ones if none is decayed."""
    variables = decayed_variables(model) or model.trainable_variables
    return float(ops.convert_to_numpy(squared_norm(variables)))


def has_finite_weights(model):
    """Whether all trainable weights are finite numbers."""
    total = squared_norm(model.trainable_variables)
    return bool(np.isfinite(ops.convert_to_numpy(total)))


def scale_invariance_of_training(model):
    """Whether a model's loss is scale-invariant, where that can be told.

    It is measured on the first rows of the arrays that `fit` was given, or
    else on random inputs of the shapes that the model declares: drawing a
    batch from a data set or generator would change what it yields next.

    Args:
        model: A compiled `ModelWrapper`, in its `fit`.

    Returns:
        A bool, or None if it cannot be told.
    """
    refused = linear_scaling_refusal(
        type(inner_optimizer(model.optimizer)).__name__
    )
    if refused or not has_finite_weights(model):
        # Without a verdict nobody asks.
        return None
    try:
        inputs = model.rows_of_fit(_ROWS)
        if inputs is None:
            inputs = _random_inputs(model.model)
        return is_scale_invariant(model, inputs)
    except Exception:
        # What a model does on other inputs than a batch is not known, and
        # training must not end because of it.
        return None


def _random_inputs(model):
    """Rows of random numbers; those of integers are 0 or 1, as any index."""
    rng = np.random.default_rng(0)

    def drawn(spec):
        # Lengths that are not fixed are long enough for what strides.
        shape = [16 if size is None else size for size in spec.shape]
        shape[0] = spec.shape[0] or _ROWS
        if keras.backend.is_float_dtype(spec.dtype):
            return rng.standard_normal(shape).astype("float32")
        return rng.integers(0, 2, shape).astype(spec.dtype)

    if isinstance(model, keras.Sequential):
        return drawn(model.inputs[0])
    return tree.map_structure(drawn, model.input)


def run_conditions(
    model, scale_invariant=None, halves_measured=False, rule="linear"
):
    """The `RunConditions` of a compiled model.

    Args:
        model: A compiled `keras.Model`.
        scale_invariant: Whether its loss is; None if not known.
        halves_measured: Whether the noise is that of the model's training
            step, not that of a probe.
        rule: `"linear"` or `"square_root"`.
    """
    optimizer = inner_optimizer(model.optimizer)
    decayed = decayed_variables(model)
    regularized = any(
        getattr(v, "regularizer", None) for v in model.trainable_variables
    )
    return RunConditions(
        optimizer=type(optimizer).__name__,
        weight_decay=float(optimizer.weight_decay or 0) if decayed else 0.0,
        momentum=_momentum(optimizer),
        ell=getattr(optimizer, "ell", 1),
        all_weights_decayed=len(decayed) == len(model.trainable_variables),
        scale_invariant=False if regularized else scale_invariant,
        batch_norm_halves=halves_measured and _normalizes_halves(model),
        other_reasons=tuple(
            _other_reasons(model, optimizer, decayed, regularized)
            if rule == "linear"
            else ()
        ),
        adaptive=None
        if rule == "linear"
        else _adaptive_conditions(model, optimizer, decayed),
    )


def _adaptive_conditions(model, optimizer, decayed):
    if not has_second_moments(optimizer):
        return AdaptiveConditions({})
    hyperparameters = {
        name: float(getattr(optimizer, name))
        for name in ("beta_1", "beta_2", "rho", "epsilon")
        if hasattr(optimizer, name)
    }
    if not hyperparameters.get("beta_1", 1.0):
        # Nothing is averaged, and nothing is to be at κB.
        del hyperparameters["beta_1"]
    ratio = None
    if optimizer.built:
        ratio = epsilon_ratio(model.trainable_variables, optimizer)
    return AdaptiveConditions(
        hyperparameters=hyperparameters,
        weight_decay=float(optimizer.weight_decay) if decayed else None,
        epsilon_in_root=has_epsilon_in_root(optimizer),
        epsilon_ratio=ratio,
        other_reasons=tuple(_reasons_of_adaptive(optimizer)),
    )


def _reasons_of_adaptive(optimizer):
    if any(getattr(optimizer, name, None) for name in _CLIPPING):
        yield "gradients are clipped"
    if getattr(optimizer, "amsgrad", False):
        yield "amsgrad divides by the largest second moment so far"
    if getattr(optimizer, "centered", False):
        yield "the second moment is centered"
    if _momentum(optimizer):
        yield f"momentum is {_momentum(optimizer):g}, not 0"


def _momentum(optimizer):
    momentum = getattr(optimizer, "momentum", 0.0)
    return float(momentum) if isinstance(momentum, (int, float)) else 0.0


def _other_reasons(model, optimizer, decayed, regularized):
    if isinstance(model, NGDModel):
        yield "the run is one of noisy gradient descent, not of SGD"
    if regularized:
        yield "the loss contains a regularizer; use the optimizer's decay"
    if any(getattr(optimizer, name, None) for name in _CLIPPING):
        yield "gradients are clipped"
    if optimizer.weight_decay and not decayed:
        yield "weight decay excludes every trainable weight"


def _normalizes_halves(model):
    if not isinstance(model, SVAGModel):
        return False
    pairing = getattr(inner_optimizer(model.optimizer), "pairing", None)
    return pairing != "independent" and has_batch_normalization(model)


def first_inputs(data, model, size):
    """Inputs of the first `size` examples of a probe's data, as one batch."""
    batch = open_examples(data, model).first(size)
    return keras.utils.unpack_x_y_sample_weight(batch)[0]
