"""The observation that a pair of gradients gives, on any backend."""

import contextlib
import random

import keras
import numpy as np
from keras import ops

from keras_svag.backend.model import (
    decayed_variables,
    gradient_weights,
    has_second_moments,
    inverse_root_second_moments,
    iterations,
    notes_kept,
)
from keras_svag.noise.moments import (
    common_rows,
    is_sparse,
    layer_moments,
    squared_norm,
)
from keras_svag.scaling.optimizers import without_loss_scale

_MOMENTS = ("grad_sq_norm", "example_noise")


class GivenLoss(keras.Model):
    """Computes the given loss, plus the losses that the model adds."""

    def __init__(self, model, loss):
        super().__init__(dtype=model.dtype_policy)
        self.model = model
        self.compile(optimizer="sgd", loss=loss)


def loss_scale(model):
    """What the optimizer multiplies a loss by, a float32 scalar."""
    optimizer = getattr(model, "optimizer", None)
    scale = getattr(optimizer, "scale_loss", lambda one: one)
    return ops.cast(scale(ops.ones(())), "float32")


def observation(model, g1, g2, rows1, rows2):
    """What a pair of gradients says, on the device.

    Args:
        model: The model; its optimizer is that which it has at this step.
        g1, g2: Lists of gradients of its `gradient_weights`.
        rows1, rows2: Examples of the two.

    Returns:
        `{column: scalar tensor}` without learning rate and iteration, and
        `"layers"`, of shape `(variables, 2)`.
    """
    weights = gradient_weights(model)
    layers = layer_moments(g1, g2, rows1, rows2)
    pairs = {"": layers}
    optimizer = without_loss_scale(getattr(model, "optimizer", None))
    if has_second_moments(optimizer) and optimizer.built:
        scaled = preconditioned_pair(g1, g2, weights, optimizer)
        pairs["preconditioned_"] = layer_moments(*scaled, rows1, rows2)
    values = {
        "rows": ops.cast(rows1 + rows2, "float32"),
        "weight_sq_norm": squared_norm(decayed_variables(model) or weights),
        "layers": layers,
    }
    for prefix, moments in pairs.items():
        totals = ops.sum(moments, axis=0)
        for place, name in enumerate(_MOMENTS):
            values[prefix + name] = totals[place]
    return values


def place_in_training(model):
    """Learning rate and steps done: `{column: scalar tensor}`."""
    optimizer = without_loss_scale(getattr(model, "optimizer", None))
    if optimizer is None:
        return {}
    # A product: an eager read of a variable shows what is assigned later.
    return {
        "learning_rate": 1 * ops.convert_to_tensor(optimizer.learning_rate),
        "iteration": iterations(optimizer),
    }


def preconditioned_pair(first, second, variables, optimizer):
    """The gradients of a pair, each over the root of its second moment.

    A gradient g becomes g / (√v + ε), with v and ε those of the optimizer
    before it has seen this pair: the scale is then independent of both
    gradients, and ⟨g1, P g2⟩ with P = 1 / (√v + ε)² stays unbiased. Where v is
    0 still, nothing is known of the scale: the entry is 0, and is left out.

    Args:
        first, second: Lists of gradients, one for each variable: tensors,
            sparse ones, or `None`.
        variables: The variables.
        optimizer: A built optimizer that `has_second_moments`.

    Returns:
        `(first, second)`, lists of tensors, `None` where a gradient is.
    """
    pairs = []
    for g1, g2, variable in zip(first, second, variables, strict=True):
        rows = None
        if g1 is None:
            pairs.append((None, None))
            continue
        if is_sparse(g1):
            g1, g2, rows = common_rows(g1, g2)
        scale = inverse_root_second_moments(optimizer, variable, rows)
        pairs.append(tuple(ops.cast(g, scale.dtype) * scale for g in (g1, g2)))
    return tuple(zip(*pairs, strict=True))


@contextlib.contextmanager
def python_state_kept(model, keeps_generators):
    """Context after which what a call changes outside of variables is back.

    Args:
        model: The model that is called.
        keeps_generators: Function of whether the global generators of Python
            and NumPy are among it.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with notes_kept(model):
            yield
    finally:
        if keeps_generators():
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def fetched(values):
    """The tensors of a nest as NumPy arrays of float64."""
    return keras.tree.map_structure(
        lambda v: np.asarray(ops.convert_to_numpy(v), np.float64), values
    )


def inverse_roots(optimizer, variables):
    """`inverse_root_second_moments` of each variable.

    Raises:
        ValueError: If the optimizer has made no step.
    """
    scales = []
    if optimizer.built:
        scales = [inverse_root_second_moments(optimizer, v) for v in variables]
    if not any(np.any(ops.convert_to_numpy(scale)) for scale in scales):
        raise ValueError(
            "`preconditioned` needs the optimizer's second moments, and it has "
            "made no step; train first."
        )
    return scales
