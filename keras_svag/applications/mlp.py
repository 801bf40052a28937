"""A small scale-invariant network of fully connected layers."""

import math

import keras

from keras_svag.applications.layers import (
    NetworkLayers,
    check_common,
    check_integer,
    check_normalization,
)


def ScaleInvariantMLP(
    input_shape,
    num_classes,
    hidden_units=(64, 64),
    normalization="layer",
    groups=8,
    momentum=0.9,
    seed=None,
    name=None,
):
    """Builds a multilayer perceptron that is scale-invariant in its weights.

    Each hidden layer is a fully connected layer without bias, a normalization
    without scale and offset, and a ReLU; a frozen linear head gives the
    logits. Scaling any one layer's weights leaves the logits unchanged, and
    so does scaling all trainable weights together.

    With `"layer"` and `"group"` every example is normalized by itself; with
    `"batch"` over the batch, which makes the network scale-invariant in
    training mode only.

    Args:
        input_shape: shape of one example; it is flattened.
        num_classes: number of logits.
        hidden_units: width of each hidden layer.
        normalization: `"layer"` (over all units of a layer), `"group"` (over
            groups of units) or `"batch"`.
        groups: number of groups with `"group"`.
        momentum: of the moving statistics with `"batch"`.
        seed: a non-negative integer for weights that are always the same,
            or None for random ones.
        name: name of the model.

    Returns:
        A `keras.Model` from inputs of shape `(batch, *input_shape)` to logits
        of shape `(batch, num_classes)`.

    Raises:
        TypeError: if an integer is asked for and something else than a
            number is given.
        ValueError: if an argument is out of its range.
    """
    if not isinstance(input_shape, (tuple, list)) or not input_shape:
        raise ValueError(
            "input_shape must be a tuple with the sizes of one example, but "
            f"{input_shape!r} was given."
        )
    for size in input_shape:
        check_integer("every entry of input_shape", size, 1)
    check_normalization(normalization, ("layer", "group", "batch"))
    check_integer("groups", groups, 1)
    groups = groups if normalization == "group" else 1
    _check_hidden_units(hidden_units, normalization, groups)
    check_common(num_classes, momentum, seed)

    layers = NetworkLayers(
        "batch" if normalization == "batch" else "group",
        groups,
        momentum,
        seed,
    )
    inputs = keras.Input(tuple(input_shape))
    x = keras.layers.Reshape((math.prod(input_shape),), name="flatten")(inputs)
    for index, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=layers.he_normal(f"dense{index}"),
            name=f"dense{index}",
        )(x)
        x = layers.norm(x, f"norm{index}")
        x = layers.relu(x, f"relu{index}")
    outputs = layers.head(x, num_classes, trainable=False)
    return keras.Model(inputs, outputs, name=name or "scale_invariant_mlp")


def _check_hidden_units(hidden_units, normalization, groups):
    if not isinstance(hidden_units, (tuple, list)) or not hidden_units:
        raise ValueError(
            "hidden_units must be a tuple with the width of each hidden "
            f"layer, but {hidden_units!r} was given."
        )
    for units in hidden_units:
        check_integer("every entry of hidden_units", units, 1)
        if normalization == "batch":
            continue
        if units % groups or units == groups:
            raise ValueError(
                "every entry of hidden_units must be a multiple of groups, "
                f"and more than one unit per group, but {units} units and "
                f"{groups} group(s) were given."
            )
