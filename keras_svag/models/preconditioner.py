"""Gradients as an adaptive optimizer scales them, before it steps."""

import tensorflow as tf

from keras_svag.models.internals import (
    inner_optimizer,
    inverse_root_second_moments,
)
from keras_svag.noise.pairs import common_rows, is_sparse


def preconditioned_pair(first, second, variables, optimizer):
    """The gradients of a pair, each over the root of its second moment.

    A gradient g becomes g / (√v + ε), with v and ε those of the optimizer
    before it has seen this pair: the scale is then independent of both
    gradients, and ⟨g1, P g2⟩ with P = 1 / (√v + ε)² stays unbiased. Where v is
    0 still, nothing is known of the scale: the entry is 0, and is left out.

    Args:
        first, second: lists of gradients, one for each variable: tensors,
            `tf.IndexedSlices`, or `None`.
        variables: the trainable variables.
        optimizer: a built optimizer that `has_second_moments`.

    Returns:
        `(first, second)`, lists of tensors, `None` where a gradient is.
    """
    optimizer = inner_optimizer(optimizer)
    pairs = []
    for g1, g2, variable in zip(first, second, variables, strict=True):
        if g1 is None:
            pairs.append((None, None))
            continue
        rows = None
        if is_sparse(g1):
            (g1, g2), rows = common_rows(g1, g2)
        scale = inverse_root_second_moments(optimizer, variable, rows)
        pairs.append(tuple(tf.cast(g, scale.dtype) * scale for g in (g1, g2)))
    return tuple(zip(*pairs, strict=True))


def inverse_roots(variables, optimizer):
    """1 / (√v + ε) of each variable, as the optimizer holds it now."""
    optimizer = inner_optimizer(optimizer)
    return [inverse_root_second_moments(optimizer, v) for v in variables]


def epsilon_ratio(variables, optimizer):
    """Mean of v / (√v + ε)² over the entries: 1 if ε is negligible.

    Entries without a second moment yet do not count; NaN if there are no
    others.
    """
    optimizer = inner_optimizer(optimizer)
    total, count = 0.0, 0
    for variable in variables:
        scale = inverse_root_second_moments(optimizer, variable)
        without = inverse_root_second_moments(optimizer, variable, epsilon=0.0)
        known = without > 0
        ratio = tf.math.divide_no_nan(scale, without)
        total += float(tf.reduce_sum(ratio * ratio))
        count += int(tf.math.count_nonzero(known))
    return total / count if count else float("nan")
