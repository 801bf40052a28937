"""Whether a network's outputs depend on the scale of its weights."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree
from scipy import sparse

from keras_svag import arguments, backend
from keras_svag.probe.measurement import check_has_call

# Powers of two, by which products in floating point scale without rounding.
_FACTORS = (2.0**-3, 2.0**3)
_ROUNDING = {"float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def is_scale_invariant(
    model: keras.Model, x: Any, rtol: float | None = None
) -> bool:
    """Measures whether scaling all trainable weights leaves the loss unchanged.

    The model is run in training mode, where BatchNormalization normalizes by
    the batch (by its moving statistics it would not be invariant), with the
    same dropout masks every time. Compared are the outputs, and the losses
    that layers add: with an L2 regularizer in the loss it is not invariant.
    Weights are moved a little first, since biases that are still zero do not
    show. The model is left as it was, to the bit.

    A normalization's epsilon counts: with Keras's default of 1e-3 a network
    is invariant only roughly, and not to the default `rtol`.

    Args:
        model: a `keras.Model`.
        x: one batch of inputs, a (nest of) array(s), of at least 2 examples
            for a model with BatchNormalization.
        rtol: largest difference of an output that counts as none, relative to
            the largest output; by default the square root of the rounding
            error of the model's compute dtype, 3e-4 for float32.

    Returns:
        A bool.

    Raises:
        TypeError: if `model` is no `keras.Model`, `rtol` no number, or `x` a
            sparse matrix of SciPy.
        ValueError: if there are no trainable weights or no examples, `rtol`
            is not positive, or the outputs are not finite.

    References:
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021, section 5,
        whose conditions suppose a scale-invariant loss.
    """
    backend.check_model(model)
    check_has_call(model)
    arguments.number("rtol", rtol, above=0, optional=True)
    for array in backend.arrays_of(x):
        if sparse.issparse(array):
            raise TypeError(
                arguments.refusal(
                    "x", "arrays or tensors", array, "`.toarray()` makes one"
                )
            )
    inputs = backend.map_arrays(ops.convert_to_tensor, x)
    shapes = [tuple(array.shape) for array in backend.arrays_of(inputs)]
    if not all(shape and shape[0] for shape in shapes):
        raise ValueError(
            "`x` must be a batch of at least one example, got arrays of "
            f"shapes {', '.join(map(str, shapes))}."
        )
    backend.build_layers(model, inputs)
    if not model.trainable_weights:
        raise ValueError(
            "`model` has no trainable weights, so there is nothing to scale; "
            "set `trainable` on some of its layers."
        )
    if rtol is None:
        rtol = _ROUNDING.get(model.compute_dtype, 2.0**-23) ** 0.5

    reference = _outputs(model, inputs, 1.0)
    if not all(np.isfinite(output).all() for output in reference):
        raise ValueError(
            "The outputs of `model` on `x` are not finite, so they cannot be "
            "compared; check the inputs and the weights."
        )
    limits = [rtol * np.max(np.abs(one), initial=0.0) for one in reference]
    return all(
        np.allclose(output, expected, rtol=0.0, atol=limit)
        for factor in _FACTORS
        for output, expected, limit in zip(
            _outputs(model, inputs, factor), reference, limits, strict=True
        )
    )


def _outputs(model, x, factor):
    rng = np.random.default_rng(0)
    with backend.preserved_state(model):
        for variable in model.trainable_weights:
            value = ops.convert_to_numpy(variable).astype(np.float64)
            size = np.sqrt(np.mean(value**2)) or 1.0
            value += 0.1 * size * rng.standard_normal(value.shape)
            # Rounded before it is scaled, and not after.
            variable.assign(
                ops.cast(value, variable.dtype)
                * ops.cast(factor, variable.dtype)
            )
        outputs = tree.flatten(backend.call_in_training_mode(model, x))
        outputs += model.losses
        return [
            np.asarray(ops.convert_to_numpy(output), np.float64)
            for output in outputs
        ]
