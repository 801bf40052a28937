"""The gradient noise of pairs of gradients, without extra passes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import ArrayLike

from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate, PairSums
from keras_svag.noise.sampling import (
    SAMPLING_MODES,
    Sampling,
    sampling_correction,
    unchecked_correction,
)

_NUM_SUMS = 6  # count, G, N, G², GN, N²

_NUM_BLOCKS = 32
_BLOCK_NUMBERS = np.arange(1.0 * _NUM_BLOCKS)[:, None]


def pair_moments(first, second):
    """Unbiased estimates of |∇L|² and Tr Σ_b from two gradients at one point.

    With `g1`, `g2` the gradients of two independent mini-batches of size b,
    `E <g1, g2> = |∇L|²` and `E |g1 - g2|² / 2 = Tr Σ_b`, each summed over the
    variables. The first may be negative in a step: clamping it there would
    bias every average of it.

    Args:
        first: list of gradients, one tensor or `tf.IndexedSlices` per
            variable; `None` where the loss does not depend on the variable.
        second: the same for the other mini-batch.

    Returns:
        `(grad_sq_norm, noise_trace)`: float64 tensors of shape
        `(len(first),)`, squared gradient units, at batch size b; a variable's
        share is 0 where its gradient is `None`.

    References:
        The pair estimator of McCandlish et al., 2018 (arXiv:1812.06162,
        appendix A), written for two batches of one size: derived.
    """
    pairs = []
    for g1, g2 in zip(first, second, strict=True):
        if g1 is None:
            g1 = g2 = tf.zeros(())
        elif is_sparse(g1):
            if g1.dtype.size < 4:
                g1, g2 = tf.cast(g1, "float32"), tf.cast(g2, "float32")
            (g1, g2), _ = common_rows(g1, g2)
        pairs.append((g1, g2))
    moments = _moments(pairs, "float32")
    noise = tf.reduce_sum(moments[1])
    # Squares of float32 overflow from 2e19 on, where the pair is finite yet.
    is_exact = tf.math.is_finite(tf.reduce_sum(moments)) & (noise > 1e-30)
    # Inlined, its operations would be dispatched in every step.
    again = tf.function(
        lambda: _moments(pairs, "float64"),
        autograph=False,
        experimental_attributes={"_noinline": True},
    )
    moments = tf.cond(is_exact, lambda: moments, again)
    return moments[0], moments[1]


def _moments(pairs, dtype):
    """Both moments of each pair, as one tensor of float64."""
    grad_sq_norms, noise_traces = [], []
    for pair in pairs:
        g1, g2 = (tf.cast(g, dtype) for g in pair)
        grad_sq_norms.append(tf.reduce_sum(g1 * g2))
        noise_traces.append(tf.nn.l2_loss(g1 - g2))
    return tf.cast(tf.stack([grad_sq_norms, noise_traces]), "float64")


def is_sparse(gradient):
    """Whether a gradient holds slices of its variable only."""
    return isinstance(gradient, tf.IndexedSlices)


def common_rows(*gradients):
    """The rows that sparse gradients of one variable touch, each row once.

    No tensor is as large as the variable, and all shapes are static where
    those of the gradients are: there are as many rows as there were slices,
    and what is left over are rows of zeros at index 0.

    Args:
        *gradients: `tf.IndexedSlices` of one variable.

    Returns:
        `(rows, indices)`: for each gradient the sums of its slices, a tensor of
        shape `(slices, ...)`, 0 where it does not touch a row; and the rows'
        indices in the variable, of shape `(slices,)`.
    """
    indices = tf.concat([g.indices for g in gradients], 0)
    slices = tf.size(indices)
    _, places = tf.unique(indices)
    of_each = tf.split(places, [tf.size(g.indices) for g in gradients])
    rows = [
        tf.math.unsorted_segment_sum(g.values, own_places, slices)
        for g, own_places in zip(gradients, of_each, strict=True)
    ]
    indices = tf.math.unsorted_segment_max(indices, places, slices)
    return rows, tf.maximum(indices, 0)


def squared_norm(variables):
    """Sum of squares over all `variables`, a float32 scalar."""
    return sum(
        (2 * tf.nn.l2_loss(ops.cast(v, "float32")) for v in variables),
        start=ops.zeros((), "float32"),
    )


@keras.saving.register_keras_serializable(package="keras_svag")
class GradientNoise(keras.metrics.Metric):
    """Gradient noise over the steps since the last reset, with error bars.

    Averages the pair estimates of `G = |∇L|²` and `N = Tr Σ` (at the simulated
    batch size) apart and divides the averages, never a step's ratio. Sums are
    kept in float64, in which the rounding of float32 gradients is far above
    the rounding of the sums. Steps that are not finite, as dynamic loss
    scaling makes them, are left out and counted.

    Beside them the sums of 16 to 32 blocks of equally many steps are kept,
    from which errors follow that hold for correlated observations too (online
    batch means: when all are full, neighbours are merged).

    `result()` is a dict of scalars: `grad_sq_norm` (G), `noise_trace` (N),
    `noise_to_signal` (N/G) and, if the batch size is known, `noise_scale`
    (B N/G, in examples).

    Args:
        batch_size: the simulated batch size B that `noise_trace` refers to,
            over all replicas. `SVAGModel` fills it in.
        num_examples: size n of the training set, to correct for the way
            batches are drawn from it; `None`: no correction.
        name: name of the metric.
        sampling: how the sub-batches are drawn, if `num_examples` is given:
            `"shuffle"` (an epoch's permutation, as `fit` does),
            `"without_replacement"` (each sub-batch apart) or
            `"with_replacement"`.
        sub_batch_size: size of one sub-batch of one replica, if it is not
            `batch_size`. `SVAGModel` fills it in.
        layers: names of the layers or variables to keep apart, or `None`.
        dtype: as for any metric; the results are float64.
        preconditioned: whether the gradients are those that an adaptive
            optimizer scales: the keys of `result()` then begin with
            `preconditioned_`, and there is no noise scale.

    Raises:
        TypeError: if a size is no number.
        ValueError: if a size is no positive integer, `num_examples` is smaller
            than `batch_size` or missing where it is needed, or `sampling` is
            unknown.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        num_examples: int | None = None,
        name: str = "gradient_noise",
        sampling: Sampling = "shuffle",
        sub_batch_size: int | None = None,
        layers: Sequence[str] | None = None,
        dtype: Any = None,
        preconditioned: bool = False,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.preconditioned = preconditioned
        arguments.choice("sampling", sampling, SAMPLING_MODES)
        arguments.integer("batch_size", batch_size, optional=True)
        self.num_examples = arguments.integer(
            "num_examples",
            num_examples,
            least=max(2, batch_size or 2),
            optional=sampling != "without_replacement",
            remedy="give the size of the training set",
        )
        self.sampling = sampling
        self._largest: Any = None
        self.set_batch_size(batch_size, sub_batch_size)
        self._sums = self._add_sums((_NUM_SUMS,), "sums")
        self._num_skipped = self._add_sums((), "num_skipped")
        self._blocks = self._add_sums((_NUM_BLOCKS, 3), "blocks")
        # In blocks: how many are full, and how many updates fill one more.
        self._blocks_filled = self._add_sums((), "blocks_filled")
        self._block_doublings = self._add_sums((), "block_doublings")
        self.set_layers(layers)

    def _add_sums(self, shape, name):
        return self.add_variable(
            shape=shape, initializer="zeros", dtype="float64", name=name
        )

    def set_layers(self, layers: Sequence[str] | None) -> None:
        """Sets the names of the layers to keep apart; `None`: none."""
        self.layers = None if layers is None else tuple(layers)
        if self.layers is not None:
            self._layer_sums = self._add_sums(
                (len(self.layers), _NUM_SUMS), "layer_sums"
            )

    def set_batch_size(
        self, batch_size: int | None, sub_batch_size: int | None = None
    ) -> None:
        """Sets B, and the size of one replica's sub-batch."""
        self._batch_size = batch_size
        self.sub_batch_size = sub_batch_size
        # It refuses sizes that do not fit.
        sampling_correction(
            self.sampling,
            self.num_examples,
            batch_size,
            sub_batch_size or batch_size,
        )

    def follow_batch_size(self) -> None:
        """From here on B is the largest that `restate` was given."""
        if self._largest is None:
            self._largest = self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(self._batch_size or 0),
                dtype="float64",
                name="largest_batch_size",
            )

    def restate(self, batch_size: float | tf.Tensor) -> None:
        """States N, that of the earlier observations too, at a larger B."""
        old, new = self._largest.value, ops.cast(batch_size, "float64")
        ratio = ops.where(new > 0, old / ops.maximum(new, 1.0), 1.0)
        one = ops.ones_like(ratio)
        # Of count, G, N, G², GN, N².
        factors = ops.stack([one, one, ratio, one, ratio, ratio * ratio])
        self._sums.assign(self._sums * factors)
        self._blocks.assign(self._blocks * factors[:3])
        if self.layers is not None:
            self._layer_sums.assign(self._layer_sums * factors)
        self._largest.assign(new)

    @property
    def batch_size(self) -> int | None:
        """B, an integer, or None while it is not known."""
        if self._largest is None:
            return self._batch_size
        return int(ops.convert_to_numpy(self._largest)) or None

    @property
    def stated_at(self) -> int | tf.Tensor | None:
        """B as a step takes it: an integer, a float64 tensor, or None."""
        return (
            self._batch_size if self._largest is None else self._largest.value
        )

    def reset_state(self) -> None:
        for variable in self.variables:
            if variable is not self._largest:
                variable.assign(ops.zeros_like(variable))

    def _correction(self, batch_size):
        return unchecked_correction(
            self.sampling,
            self.num_examples,
            batch_size,
            self.sub_batch_size or batch_size,
        )

    def update_state(
        self,
        grad_sq_norm: ArrayLike | tf.Tensor,
        noise_trace: ArrayLike | tf.Tensor,
    ) -> None:
        """Adds one observation: of one step, on one replica.

        Args:
            grad_sq_norm: estimate of G, a scalar, or of shape `(len(layers),)`.
            noise_trace: estimate of N at `batch_size`, of the same shape.

        Raises:
            ValueError: if the shapes differ.
        """
        g = ops.reshape(ops.cast(grad_sq_norm, "float64"), (-1,))
        n = ops.reshape(ops.cast(noise_trace, "float64"), (-1,))
        if g.shape != n.shape or (
            self.layers is not None and g.shape[0] != len(self.layers)
        ):
            expected = "" if self.layers is None else f" of {len(self.layers)}"
            raise ValueError(
                "`grad_sq_norm` and `noise_trace` must have one value each"
                f"{expected and expected + ' layers'}, got shapes "
                f"{tuple(g.shape)} and {tuple(n.shape)}."
            )
        total_g, total_n = ops.sum(g), ops.sum(n)
        # Their squares are summed too.
        finite = ops.isfinite(total_g * total_g + total_n * total_n)
        self._num_skipped.assign_add(1.0 - ops.cast(finite, "float64"))
        new = _add_where(finite, self._sums, total_g, total_n)
        self._add_to_block(new[:3])
        if self.layers is not None:
            _add_where(finite, self._layer_sums, g, n)

    def _add_to_block(self, new):
        filled = ops.convert_to_tensor(self._blocks_filled)
        is_last = ops.equal(ops.floor(filled), _BLOCK_NUMBERS)
        self._blocks.assign_add(ops.where(is_last, new, 0.0))
        # Powers of two, which add up without rounding.
        filled = filled + ops.power(0.5, self._block_doublings)
        self._blocks_filled.assign(filled)
        ops.cond(filled >= _NUM_BLOCKS, self._merge_blocks, lambda: None)

    def _merge_blocks(self):
        halves = ops.sum(ops.reshape(self._blocks, (-1, 2, 3)), axis=1)
        self._blocks.assign(ops.concatenate([halves, ops.zeros_like(halves)]))
        self._blocks_filled.assign(_NUM_BLOCKS / 2)
        self._block_doublings.assign_add(1.0)

    def result(self) -> dict[str, tf.Tensor]:
        count, g, n = self._sums[0], self._sums[1], self._sums[2]
        (a11, a12), (a21, a22) = self._correction(self.stated_at)
        g, n = g / count, n / count
        g, n = a11 * g + a12 * n, a21 * g + a22 * n
        logs = {
            "grad_sq_norm": g,
            "noise_trace": n,
            "noise_to_signal": n / g,
        }
        if self.preconditioned:
            return {f"preconditioned_{key}": logs[key] for key in logs}
        if self.stated_at is not None:
            logs["noise_scale"] = n / g * ops.cast(self.stated_at, "float64")
        return logs

    def sums(self) -> PairSums:
        """`PairSums` of the observations so far, not corrected for sampling."""
        sums = ops.convert_to_numpy(self._sums).tolist()
        skipped = int(ops.convert_to_numpy(self._num_skipped))
        return PairSums(*sums + [skipped])

    def estimate(self) -> NoiseEstimate:
        """Means and standard errors so far.

        Returns:
            A `NoiseEstimate`, with `per_layer` if `layers` were given.
        """
        common = {
            "batch_size": self.batch_size,
            "num_skipped": int(ops.convert_to_numpy(self._num_skipped)),
            "sampling": self.sampling,
            "num_examples": self.num_examples,
        }
        per_layer = None
        if self.layers is not None:
            per_layer = {
                layer: NoiseEstimate.from_sums(*sums, **common)
                for layer, sums in zip(
                    self.layers,
                    ops.convert_to_numpy(self._layer_sums),
                    strict=True,
                )
            }
        blocks = ops.convert_to_numpy(self._blocks)
        estimate = NoiseEstimate.from_sums(
            *ops.convert_to_numpy(self._sums),
            per_layer=per_layer,
            blocks=tuple(map(tuple, blocks[blocks[:, 0] > 0].tolist())),
            **common,
        )
        return estimate.corrected(self._correction(self.batch_size))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            {
                "batch_size": self.batch_size,
                "num_examples": self.num_examples,
                "sampling": self.sampling,
                "sub_batch_size": self.sub_batch_size,
                "layers": None if self.layers is None else list(self.layers),
                "preconditioned": self.preconditioned,
            }
        )
        return config


def _add_where(condition, sums, g, n):
    new = ops.stack([ops.ones_like(g), g, n, g * g, g * n, n * n], axis=-1)
    new = ops.where(condition, new, ops.zeros_like(new))
    sums.assign_add(new)
    return new
