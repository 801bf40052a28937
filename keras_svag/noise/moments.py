"""The two moments of a pair of gradients, on any backend of Keras."""

from collections.abc import Sequence
from typing import Any

from keras import backend, ops

from keras_svag import arguments


def pair_moments(
    g1: Sequence[Any], g2: Sequence[Any], rows1: Any, rows2: Any
) -> tuple[Any, Any]:
    """Unbiased estimates of G and S from two gradients at the same weights.

    With `g1` and `g2` the mean gradients of two independent batches of r1 and
    r2 examples, `E <g1, g2> = |∇L|²` is G, and
    `E |g1 - g2|² / (1 / r1 + 1 / r2) = Tr Σ¹` is S, the noise of one example:
    that of a batch of B examples is S / B. The estimate of G may be negative:
    average many of both, then divide.

    Args:
        g1, g2: Lists of gradients, one for each variable: tensors, sparse ones
            such as `tf.IndexedSlices`, or None for a gradient of zeros.
        rows1, rows2: Examples of the two batches, numbers or scalar tensors.

    Returns:
        `(grad_sq_norm, example_noise)`: float32 scalars, squared gradient
        units.

    Raises:
        TypeError: If `rows1` or `rows2` is no number.
        ValueError: If one is not above 0, the lists are empty or differ in
            length, or two gradients of a variable in shape.

    References:
        The pair estimator of McCandlish et al., 2018 (arXiv:1812.06162,
        appendix A), written for two batches of any sizes: derived, section 4
        of docs/theory.md.
    """
    if len(g1) == 0:
        raise arguments.wrong("g1", "at least one gradient", g1)
    if len(g1) != len(g2):
        raise arguments.wrong("g2", f"{len(g1)} gradients, as g1", len(g2))
    for pair in zip(g1, g2, strict=True):
        shapes = [tuple(getattr(g, "shape", ())) for g in pair if g is not None]
        if shapes[1:] and shapes[0] != shapes[1]:
            # They would be broadcast.
            wanted = f"gradients of the shapes in g1, {shapes[0]}"
            raise arguments.wrong("g2", wanted, shapes[1])
    for name, rows in (("rows1", rows1), ("rows2", rows2)):
        if not ops.is_tensor(rows):
            arguments.number(name, rows, above=0)
    moments = ops.sum(layer_moments(g1, g2, rows1, rows2), axis=0)
    return moments[0], moments[1]


def layer_moments(g1, g2, rows1, rows2):
    """The shares of every variable in the two moments of `pair_moments`.

    Returns:
        float32 tensor of shape `(len(g1), 2)` with a row (G, S) for each
        variable.
    """
    rows1, rows2 = ops.cast(rows1, "float32"), ops.cast(rows2, "float32")
    of_one_example = rows1 * rows2 / (rows1 + rows2)
    products, distances = [], []
    for a, b in zip(g1, g2, strict=True):
        if a is None:
            a, b = b, a
        if a is None:
            products.append(ops.zeros((), "float32"))
            distances.append(ops.zeros((), "float32"))
            continue
        is_alone = b is None
        if is_sparse(a):
            a, b, _ = common_rows(a, a if is_alone else b)
        a = _at_least_float32(a)
        b = ops.zeros_like(a) if is_alone else _at_least_float32(b)
        products.append(ops.cast(ops.sum(a * b), "float32"))
        distances.append(ops.cast(ops.sum(ops.square(a - b)), "float32"))
    distances = ops.stack(distances) * of_one_example
    return ops.stack([ops.stack(products), distances], axis=1)


def common_rows(g1, g2):
    """The rows that two sparse gradients of one variable touch, each once.

    No tensor is as large as the variable, and shapes are static where those
    of the gradients are: there are as many rows as both have slices, and the
    rows left over are zeros at index 0.

    Args:
        g1, g2: Sparse gradients, with `indices` and `values`.

    Returns:
        `(values1, values2, indices)`: the sums of the slices of each gradient,
        of shape `(slices, ...)`, 0 where it does not touch the row; and the
        rows' indices in the variable, of shape `(slices,)`.
    """
    indices = ops.concatenate([g1.indices, g2.indices])
    num_slices = ops.shape(indices)[0]
    order = ops.argsort(indices)
    ordered = ops.take(indices, order)
    is_first = ops.concatenate(
        [ops.ones_like(ordered[:1]), ops.sign(ordered[1:] - ordered[:-1])]
    )
    places = ops.cast(ops.cumsum(is_first), "int32") - 1
    indices = ops.segment_sum(ordered * is_first, places, num_slices)
    # Back to the order in which the slices came.
    places = ops.take(places, ops.argsort(order))
    split = ops.shape(g1.indices)[0]
    values = (
        ops.segment_sum(_at_least_float32(g.values), own_places, num_slices)
        for g, own_places in ((g1, places[:split]), (g2, places[split:]))
    )
    return *values, indices


def is_sparse(gradient):
    """Whether a gradient holds slices of its variable only."""
    return hasattr(gradient, "dense_shape")


def squared_norm(variables):
    """Sum of squares over all `variables`, a float32 scalar."""
    squares = [ops.sum(ops.square(ops.cast(v, "float32"))) for v in variables]
    return ops.sum(ops.stack(squares))


def _at_least_float32(tensor):
    # Squares of float16 overflow from 256 on.
    return ops.cast(tensor, backend.result_type(tensor.dtype, "float32"))
