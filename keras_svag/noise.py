"""Moments of a pair of gradients: the gradient noise, without extra passes."""

import tensorflow as tf
from keras import ops


def pair_moments(first, second):
    """Unbiased estimates of |∇L|² and Tr Σ_b from two gradients at one point.

    With `g1`, `g2` the gradients of two independent mini-batches of size b,
    `E <g1, g2> = |∇L|²` and `E |g1 - g2|² / 2 = Tr Σ_b`, each summed over the
    variables. The first may be negative in a step: clamping it there would
    bias every average of it.

    Args:
        first: list of gradients, one tensor per variable; `None` where the
            loss does not depend on the variable.
        second: the same for the other mini-batch.

    Returns:
        `(grad_sq_norm, noise_trace)`: float32 tensors of shape
        `(len(first),)`, squared gradient units, at batch size b; a variable's
        share is 0 where its gradient is `None`.

    References:
        The pair estimator of McCandlish et al., 2018 (arXiv:1812.06162,
        appendix A), written for two batches of one size: derived.
    """
    grad_sq_norms, noise_traces = [], []
    for g1, g2 in zip(first, second, strict=True):
        if g1 is None:
            g1 = g2 = ops.zeros(())
        g1, g2 = ops.cast(g1, "float32"), ops.cast(g2, "float32")
        grad_sq_norms.append(ops.sum(ops.multiply(g1, g2)))
        noise_traces.append(tf.nn.l2_loss(ops.subtract(g1, g2)))
    return ops.stack(grad_sq_norms), ops.stack(noise_traces)


def squared_norm(variables):
    """Sum of squares over all `variables`, a float32 scalar."""
    return sum(
        (2 * tf.nn.l2_loss(ops.cast(v, "float32")) for v in variables),
        start=ops.zeros(()),
    )
