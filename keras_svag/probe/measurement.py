"""Measures the gradient noise of a model without training it."""

import dataclasses
import itertools
import math
import warnings
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_svag import arguments, backend
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.probe.moments import (
    FEWEST_FOR_ERRORS,
    probe_degrees_of_freedom,
    sequential_moments,
)

# With fewer batches the error itself is too uncertain to stop by.
_FEWEST_BEFORE_STOPPING = 20


def measure_gradient_noise(
    model: keras.Model,
    data: Any,
    batch_size: int | None = None,
    num_batches: int = 100,
    *,
    loss: Any = None,
    rtol: float | None = None,
    per_layer: bool = False,
    seed: int | None = None,
    preconditioned: bool = False,
    verbose: int | Literal["auto"] = "auto",
) -> NoiseEstimate:
    """Measures G = |∇L|² and the gradient noise at the model's present weights.

    Takes the gradient of the training loss on each of some batches: of the
    compiled loss, or that of `compute_loss`, with regularizers and `add_loss`,
    as computed from `model(x)` in training mode. A `train_step` of the model's
    own is not run. Each gradient is compared with the mean and with the
    alternating sum of those before it, and forgotten; two running sums are all
    that is kept, whatever `num_batches`. That gives the unbiased estimates over
    all pairs of batches, and their standard errors: see `sequential_moments` in
    `keras_svag.probe.moments`.

    ```python
    model.compile(optimizer="sgd", loss="mse")
    noise = keras_svag.measure_gradient_noise(model, (x, y), batch_size=128)
    print(noise.describe())  # N/G = 41 [33, 55]
    ```

    - From arrays, batches are drawn with replacement: independent of each
      other, so that the estimates are exactly unbiased.
    - Other data give their own batches, as they come. Those of one pass
      through n shuffled examples exclude each other: G is then too low by
      S / n, with S the noise of one example. Batches that do not have as many
      rows as the first one, such as a last one, are left out. Reading counts
      as reading: a generator has moved on afterwards, and a data set that
      shuffles goes on to its next order.

    The model is left as it was, to the bit, even if this is interrupted:
    weights, moving statistics of BatchNormalization, random seeds (dropout
    draws what the next training step would), metrics, optimizer. A model in a
    `tf.distribute` strategy is measured on one device.

    Args:
        model: A compiled `keras.Model`; an uncompiled one with `loss`.
        data: Arrays: an array or a dict of arrays x, or a tuple `(x, y)` or
            `(x, y, sample_weight)` of (nests of) such. Or what else `fit`
            takes: a `tf.data.Dataset` or `keras.utils.PyDataset`, a generator
            or another iterable of batches (a list is one of batches).
        batch_size: Integer >= 1, rows of the batches that are drawn from
            arrays; None: 32, as in `fit`. Must be None for other data.
        num_batches: Integer >= 2, how many batches; fewer if the data end.
            With fewer than 4 there are no standard errors; intervals are good
            from 20 on.
        loss: Replaces the compiled loss (and a `compute_loss` of the model's
            own), as in `keras.Model.compile`. Where the data have no targets
            y, it is called with (x, y_pred).
        rtol: If given, stops as soon as the relative standard error of N/G is
            at most this, after 20 batches at the earliest. It stops where the
            error looks small, which costs little: in simulations the whole
            95% interval lay above N/G in at most 2% of cases, and below it in
            at most 8%, where a fixed number of batches has 3% and 6%
            (benchmarks/coverage.py).
        per_layer: Whether to measure each trainable variable apart too.
        seed: Integer, the seed of the draws from arrays; None: other draws
            every time. Global random states are neither used nor changed.
        preconditioned: Whether each gradient is divided by √v + ε, as the
            model's optimizer does it with its present second moments: needs a
            model that was trained with Adam, RMSprop or one of their kind.
        verbose: 0 (silent), 1 (a progress bar and the result), 2 (one line of
            each) or `"auto"`, which is 1.

    Returns:
        A `NoiseEstimate`, with N stated at the size of the batches. Batches
        whose gradient is not finite even at a loss scale of 1 are left out and
        counted in `num_skipped`.

    Raises:
        TypeError: If `model` is no `keras.Model`, `data` nothing that `fit`
            takes, or something no number where one is wanted.
        ValueError: If a number is out of range, there are no batches, the
            arrays differ in their number of rows, or there is no loss, no
            `call` or no trainable weight, or no second moments.
    """
    backend.check_model(model)
    arguments.integer("batch_size", batch_size, optional=True)
    arguments.integer("num_batches", num_batches, least=2)
    arguments.number("rtol", rtol, above=0, optional=True)
    arguments.boolean("per_layer", per_layer)
    arguments.integer("seed", seed, least=0, optional=True)
    arguments.boolean("preconditioned", preconditioned)
    arguments.choice("verbose", verbose, ("auto", 0, 1, 2))
    if loss is None and not model.compiled:
        raise ValueError(
            "`model` has no loss, because it is not compiled; give `loss`, or "
            "call model.compile(loss=...)."
        )
    if preconditioned and not (
        model.compiled and backend.has_second_moments(model.optimizer)
    ):
        raise arguments.wrong(
            "preconditioned",
            "False, unless the model is compiled with an optimizer that "
            "keeps second moments of each entry",
            preconditioned,
        )
    check_has_call(model)
    batches, sampling = _batches(data, batch_size, num_batches, seed)
    first = next(batches, None)
    if first is None:
        raise ValueError("`data` must have batches, got none.")
    check_targets(model, first, loss)
    backend.build_training(model, first)
    rows = backend.num_rows(first)
    _check_model(model, rows)

    verbose = 1 if verbose == "auto" else verbose
    progress = keras.utils.Progbar(
        num_batches, verbose=verbose, stateful_metrics=["noise_to_signal"]
    )
    drawn = left_out = 0
    with (
        backend.python_state_kept(model, keeps_generators=True),
        backend.preserved_state(model),
    ):
        gradients = SequentialGradients(model, loss, preconditioned)
        for batch in itertools.chain([first], batches):
            if backend.num_rows(batch) != rows:
                left_out += 1
                continue
            drawn += 1
            with backend.one_sentence("data"):
                gradients.add(batch)
            if verbose:
                progress.update(drawn, gradients.summary(), finalize=False)
            if rtol is not None and gradients.count >= _FEWEST_BEFORE_STOPPING:
                so_far = _estimate(gradients.moments(), gradients.count, rows)
                if so_far.noise_to_signal_se <= rtol * so_far.noise_to_signal:
                    break
    if verbose:
        progress.update(drawn, gradients.summary(), finalize=True)
    if left_out > drawn:
        warnings.warn(
            f"{left_out:,} of {left_out + drawn:,} batches were left out: only "
            f"those of {rows:,} rows, as the first one has, are comparable.",
            stacklevel=2,
        )

    skipped = drawn - gradients.count
    if skipped:
        warnings.warn(
            f"{skipped:,} of {drawn:,} batches have gradients that are not "
            "finite and were left out: if these are the largest, as where "
            "float16 overflows, G and N are too low.",
            stacklevel=2,
        )
    fields = {"batch_size": rows, "num_skipped": skipped, **sampling}
    estimate = _estimate(gradients.moments(), gradients.count, **fields)
    if per_layer:
        layers = {
            name: _estimate(gradients.moments(index), gradients.count, **fields)
            for index, name in enumerate(gradients.layers)
        }
        estimate = dataclasses.replace(estimate, per_layer=layers)
    if verbose:
        print(
            f"{estimate.describe()} at batch size {rows:,}, from "
            f"{gradients.count:,} batches"
        )
    return estimate


class SequentialGradients:
    """Gradients of one batch after another, kept as two running sums.

    Args:
        model: A built `keras.Model`.
        loss: Replaces the compiled loss, as in `keras.Model.compile`; None:
            the compiled one.
        preconditioned: Whether they are scaled as the optimizer does it.

    Attributes:
        layers: A name for each variable.
        count: Number of finite gradients so far.
    """

    def __init__(self, model, loss=None, preconditioned=False):
        self._gradients = backend.Gradients(model, loss, preconditioned)
        self._step = self._gradients.compiled(self._compare)
        self._mean_sum = [
            ops.zeros(v.shape, "float32") for v in self._gradients.variables
        ]
        self._alternating_sum = list(self._mean_sum)
        self._moments = []
        self.layers = backend.names_of(self._gradients.variables)
        self.count, self._factor = 0, 1.0

    def add(self, batch):
        """Compares one more gradient with those before it.

        Where it is not finite, the batch is measured again with half the loss
        scale, which training would halve too, until that is 1.
        """
        factor = self._factor
        while True:
            moments, is_finite, *sums = self._step(
                batch,
                self._mean_sum,
                self._alternating_sum,
                ops.convert_to_tensor(self.count, "float32"),
                ops.convert_to_tensor(factor, "float32"),
            )
            if is_finite:
                break
            if factor * self._gradients.loss_scale <= 1.0:
                return
            factor /= 2.0
        self._factor = factor
        self._mean_sum, self._alternating_sum = sums
        if self.count:
            self._moments.append(ops.convert_to_numpy(moments))
        self.count += 1

    def moments(self, variable=None):
        """The arguments of `sequential_moments`, of all or of one variable."""
        shape = (-1, 3, len(self._mean_sum))
        moments = np.reshape(self._moments, shape).astype(np.float64)
        if variable is not None:
            return moments[:, :, variable].T
        return moments.sum(-1).T

    def summary(self):
        """What the progress bar shows."""
        if not self._moments:
            return []
        (g, n), *_ = sequential_moments(*self.moments())
        return [("noise_to_signal", n / g if g else math.nan)]

    def _compare(self, batch, mean_sum, alternating_sum, count, factor):
        gradients = self._gradients.of(batch, factor)
        is_finite = ops.isfinite(sum(ops.sum(g * g) for g in gradients))
        past = ops.maximum(count, 1.0)
        sign = 1.0 - 2.0 * ops.mod(count, 2.0)
        moments, sums, alternating_sums = [], [], []
        for g, s, a in zip(gradients, mean_sum, alternating_sum, strict=True):
            mean = s / past
            deviation = ops.sum(ops.square(g - mean)) * past / (past + 1.0)
            moments.append(
                ops.stack([ops.sum(g * mean), deviation, ops.sum(g * a)])
            )
            sums.append(s + g)
            alternating_sums.append(a + sign * g)
        return ops.stack(moments, 1), is_finite, sums, alternating_sums


def _batches(data, batch_size, num_batches, seed):
    """At most `num_batches` batches, and how they are drawn."""
    if backend.are_arrays(data):
        arrays = backend.ArrayRows(data)
        rng = np.random.default_rng(seed)
        drawn = (
            arrays.take(rng.integers(arrays.num_rows, size=batch_size or 32))
            for _ in range(num_batches)
        )
        known = {"sampling": "independent", "num_examples": arrays.num_rows}
        return drawn, known
    if batch_size is not None:
        raise arguments.wrong(
            "batch_size",
            "None for data that come in batches",
            batch_size,
            "of arrays, in a tuple (x, y), batches of any size are drawn",
        )
    return itertools.islice(backend.batches_of(data), num_batches), {}


def _estimate(moments, count, batch_size, **fields):
    values, parts = np.full(5, math.nan), None
    if count > 1:
        (g, n), errors, parts = sequential_moments(*moments)
        g_error, n_error = np.sqrt(np.diag(errors))
        values = np.array([g, n, g_error, n_error, errors[0, 1]])
        values[[1, 3, 4]] *= batch_size
    return NoiseEstimate(
        *values,
        count=count,
        batch_size=batch_size,
        degrees_of_freedom=probe_degrees_of_freedom(count),
        probe=parts if count >= FEWEST_FOR_ERRORS else None,
        **fields,
    )


def check_has_call(model):
    """Raises a `ValueError` if a model cannot be called on inputs."""
    if not backend.overrides(model, "call"):
        raise ValueError(
            "`model` must have a `call`, from which its loss is computed, got "
            f"{type(model).__name__}, which has none; give it one, with the "
            "loss in `compute_loss` or `add_loss`, or measure a model in it "
            "by itself."
        )


def check_targets(model, batch, loss=None, name="data"):
    """Raises a `ValueError` if a batch lacks the targets of the loss."""
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    is_given = loss is not None or backend.overrides(model, "compute_loss")
    if y is None and not is_given and model.loss is not None:
        raise ValueError(
            f"`{name}` must have targets y for the loss of the model, got "
            "inputs x alone; give (x, y), or a model without a compiled loss "
            "that adds its own."
        )


def _check_model(model, rows):
    if not model.trainable_weights:
        raise ValueError(
            "`model` has no trainable weights, so it has no gradient to "
            "measure; set `trainable` on some of its layers."
        )
    if rows == 1 and backend.has_batch_normalization(model):
        raise ValueError(
            "Batches must have at least 2 rows for a model with "
            "BatchNormalization, got 1: a single example has no variance."
        )
