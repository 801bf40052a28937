"""Measures the gradient noise of a model without training it."""

import dataclasses
import math
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_svag import arguments
from keras_svag.models.internals import (
    build_training,
    call_in_training_mode,
    check_model,
    has_batch_normalization,
    has_second_moments,
    overrides,
    replicas,
    training_loss,
)
from keras_svag.models.preconditioner import inverse_roots
from keras_svag.models.state import preserved_state
from keras_svag.models.wrapper import ModelWrapper
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.sampling import (
    SAMPLING_MODES,
    Sampling,
    sampling_correction,
    sub_batch_indices,
)
from keras_svag.probe.examples import open_examples
from keras_svag.probe.moments import (
    probe_degrees_of_freedom,
    sequential_moments,
)

# With fewer batches the standard error is too uncertain to stop by.
_FEWEST_BEFORE_STOPPING = 20


def measure_gradient_noise(
    model: keras.Model,
    dataset: Any,
    batch_size: int,
    num_batches: int,
    loss: Any = None,
    rtol: float | None = None,
    per_layer: bool = False,
    seed: int | None = None,
    verbose: int | Literal["auto"] = "auto",
    sampling: Sampling = "with_replacement",
    preconditioned: bool = False,
) -> NoiseEstimate:
    """Measures G = |∇L|² and N = Tr Σ at the model's present weights.

    Draws `num_batches` mini-batches and takes the gradient of the training
    loss on each: in training mode, regularizers and `add_loss` included. Each
    gradient is compared with the mean and with the alternating sum of those
    before it, and forgotten; two running sums are all that is kept, whatever
    `num_batches`. That gives the unbiased estimates over all pairs of
    batches, and their standard errors: see `sequential_moments` in
    `keras_svag.probe.moments`.

    Nothing is left changed, to the bit, even if it is interrupted: weights,
    moving statistics of BatchNormalization, random seeds (dropout draws what
    the next training step would), metrics, optimizer. A model in a
    `tf.distribute` strategy is measured on one device; every gradient is that
    of a whole mini-batch.

    ```python
    model.compile(optimizer="sgd", loss="mse")
    noise = keras_svag.measure_gradient_noise(model, (x, y), 128, 100)
    print(noise.describe())  # N/G = 41 [33, 55]
    ```

    Data sets that are no arrays are read in passes, one for each GiB of
    examples drawn, and only these are held in memory. Where its size is not
    known, as after `filter`, one more pass counts the examples: it has to end.

    - What shuffles anew in every pass is drawn from as well as what stands
      still: draws do not depend on the order. `"with_replacement"` stays
      exactly unbiased, and examples within a batch distinct where they are
      said to be. Only with `"shuffle"` may batches of different passes
      overlap.
    - What is augmented in it counts as it comes out of that pass, one copy of
      each example: as if these copies were the data set. Its draws of random
      numbers are those of the data set, which `seed` does not reach.
    - Reading it counts as reading: a `shuffle` within goes on to its next
      order, so later epochs of training on the same object see other orders
      than without a probe. Arrays and the data before `shuffle` do not.

    What a `train_step` of the model's own does besides is not seen: measured
    is the loss that is compiled, of `compute_loss` and of `add_loss`, as it is
    computed from `model(x)`.

    Args:
        model: a compiled `keras.Model`, wrapped in an `SVAGModel` or not; an
            uncompiled one with `loss`.
        dataset: what `fit` takes: an array or a dict of arrays x, a tuple
            `(x, y)` or `(x, y, sample_weight)` of such, a finite
            `tf.data.Dataset` or `keras.utils.PyDataset` of batches of these;
            a function that returns a generator of batches, or an object that
            starts anew with every `iter`. Batches are taken apart, and
            mini-batches of `batch_size` drawn from their examples. A
            `tf.data.Dataset` of single examples is taken as well, told from
            one of batches by the model's inputs.
        batch_size: integer >= 1, examples in a mini-batch; N is at this size.
        num_batches: integer >= 2, how many mini-batches. With fewer than 4
            there are no standard errors; intervals are good from 20 on.
        loss: replaces the compiled loss (and a `compute_loss` of the model's
            own), as in `keras.Model.compile`.
        rtol: if given, stops as soon as the relative standard error of N/G is
            at most this, after 20 batches at the earliest. Since it stops
            where the error looks small, each side of the interval errs in 6 to
            8% of cases, not in 2.5% (benchmarks/probe_coverage.py).
        per_layer: whether to measure each trainable variable apart too.
        seed: integer, the seed of the draws; `None`: other draws every time.
            Global random states are neither used nor changed.
        verbose: 0 (silent), 1 (a progress bar and the result), 2 (one line of
            each) or `"auto"`, which is 1.
        sampling: `"with_replacement"` (exactly unbiased), or
            `"without_replacement"` (distinct examples within a batch) or
            `"shuffle"` (disjoint batches), whose bias is corrected.
        preconditioned: whether each gradient is scaled as the model's
            optimizer does it, by 1 / (√v + ε) with its present second moments
            (derived; see `SVAGModel`). Needs a model compiled with Adam,
            AdamW, Nadam, Adamax, RMSprop or Adagrad.

    Returns:
        A `NoiseEstimate` at `batch_size`. Its `num_examples_used` is the
        number of examples drawn; batches whose gradient is not finite, as
        happens in float16, are left out and counted in `num_skipped`.

    Raises:
        TypeError: if `model` is no `keras.Model`, `dataset` no such data set,
            or something no number where one is wanted.
        ValueError: if a number is out of range, the data set has too few
            examples or is infinite or ragged, or there is no loss, no `call`
            or no trainable weight, or no second moments in the optimizer.
    """
    check_model(model)
    arguments.integer("batch_size", batch_size)
    arguments.integer("num_batches", num_batches, least=2)
    arguments.number("rtol", rtol, above=0, optional=True)
    arguments.integer("seed", seed, least=None, optional=True)
    arguments.choice("sampling", sampling, SAMPLING_MODES)
    if loss is None and not model.compiled:
        raise ValueError(
            "`model` has no loss, because it is not compiled; give `loss`, or "
            "call model.compile(loss=...)."
        )
    if preconditioned and not (
        model.compiled and has_second_moments(model.optimizer)
    ):
        raise ValueError(
            arguments.refusal(
                "preconditioned",
                "False, unless the model is compiled with an optimizer that "
                "keeps second moments of each entry",
                preconditioned,
            )
        )
    check_has_call(model)
    examples = open_examples(dataset, model)
    verbose = 1 if verbose == "auto" else verbose
    if verbose and not examples.is_counted:
        print("Counting the examples of `dataset`, which takes one pass")
    _check_num_examples(
        examples.num_examples, batch_size, num_batches, sampling
    )
    if seed is None:
        seed = int(np.random.default_rng().integers(2**63))
    example = next(examples.batches([np.zeros(2, int)]))
    _check_targets(model, example, loss)
    build_training(model, example)
    _check_model(model, batch_size)

    common = {
        "batch_size": batch_size,
        "sampling": sampling,
        "num_examples": examples.num_examples,
    }
    draws = (
        sub_batch_indices(
            sampling, seed, index, examples.num_examples, batch_size
        ).numpy()
        for index in range(num_batches)
    )
    progress = keras.utils.Progbar(
        num_batches, verbose=verbose, stateful_metrics=["noise_to_signal"]
    )
    with preserved_state(model):
        gradients = SequentialGradients(model, loss, preconditioned)
        for drawn, batch in enumerate(examples.batches(draws), start=1):
            gradients.add(batch)
            stop = drawn == num_batches
            if rtol is not None and gradients.count >= _FEWEST_BEFORE_STOPPING:
                so_far = _estimate(gradients.moments(), **common)
                error = so_far.noise_to_signal_se / so_far.noise_to_signal
                stop |= error <= rtol
            if verbose:
                progress.update(drawn, gradients.summary(), finalize=stop)
            if stop:
                break

    common |= {
        "num_skipped": drawn - gradients.count,
        "num_examples_used": drawn * batch_size,
    }
    layers = None
    if per_layer:
        layers = {
            name: _estimate(gradients.moments(index), **common)
            for index, name in enumerate(_distinct_paths(model))
        }
    estimate = dataclasses.replace(
        _estimate(gradients.moments(), **common), per_layer=layers
    )
    if verbose:
        print(
            f"{estimate.describe()} at batch size {batch_size:,}, from "
            f"{estimate.num_examples_used:,} examples"
        )
    return estimate


class SequentialGradients:
    """Gradients of one mini-batch after another, kept as two running sums.

    Args:
        model: a built `keras.Model`.
        loss: replaces the compiled loss, as in `keras.Model.compile`; `None`:
            the compiled one.
        preconditioned: whether they are scaled as the optimizer does it.

    Attributes:
        count: number of finite gradients so far.
    """

    def __init__(self, model, loss, preconditioned=False):
        self._model = model
        self._scales = None
        if preconditioned:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            self._scales = inverse_roots(
                model.trainable_weights, model.optimizer
            )
            if not any(tf.math.count_nonzero(s) for s in self._scales):
                raise ValueError(
                    "`preconditioned` needs the optimizer's second moments, "
                    "and it has made no step; train first."
                )
        self._objective = model
        if loss is not None:
            self._objective = _GivenLoss(model)
            self._objective.compile(optimizer="sgd", loss=loss)
        # Of the optimizer only the loss scale of mixed precision is used.
        compiled = model if model.compiled else self._objective
        self._optimizer = compiled.optimizer
        # The replica that a strategy reads where no replica is running.
        self._weights = [replicas(v)[0] for v in model.trainable_weights]
        self._mean_sum = [tf.zeros(v.shape) for v in self._weights]
        self._alternating_sum = list(self._mean_sum)
        self._moments = []
        self.count = 0
        self._step = tf.autograph.experimental.do_not_convert(self._compare)
        if not self._objective.run_eagerly:
            self._step = tf.function(self._step)

    def add(self, batch):
        """Compares one more gradient with those before it."""
        moments, finite, *sums = self._step(
            batch,
            self._mean_sum,
            self._alternating_sum,
            tf.constant(self.count, tf.float32),
        )
        if not finite:
            return
        self._mean_sum, self._alternating_sum = sums
        if self.count:
            self._moments.append(moments.numpy().astype(np.float64))
        self.count += 1

    def moments(self, variable=None):
        """The arguments of `sequential_moments`, of all or of one variable."""
        moments = np.reshape(self._moments, (-1, 3, len(self._weights)))
        if variable is not None:
            return moments[:, :, variable].T
        return moments.sum(-1).T

    def summary(self):
        """What the progress bar shows."""
        if not self._moments:
            return []
        (g, n), _ = sequential_moments(*self.moments())
        return [("noise_to_signal", n / g if g else math.nan)]

    def _compare(self, batch, mean_sum, alternating_sum, count):
        gradients = self._gradients(batch)
        finite = tf.math.is_finite(
            tf.add_n([tf.reduce_sum(g * g) for g in gradients])
        )
        past = tf.maximum(count, 1.0)
        sign = 1.0 - 2.0 * tf.math.floormod(count, 2.0)
        moments, sums, alternating_sums = [], [], []
        for g, s, a in zip(gradients, mean_sum, alternating_sum, strict=True):
            mean = s / past
            deviation = tf.reduce_sum(tf.square(g - mean)) * past / (past + 1)
            moments.append(
                [tf.reduce_sum(g * mean), deviation, tf.reduce_sum(g * a)]
            )
            sums.append(s + g)
            alternating_sums.append(a + sign * g)
        return tf.transpose(moments), finite, sums, alternating_sums

    def _gradients(self, batch):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = call_in_training_mode(self._model, x)
            loss = training_loss(self._objective, x, y, y_pred, sample_weight)
            scaled_loss = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self._weights)
        # In a strategy's scope Keras divides losses by the replicas, although
        # one of them computes the whole batch here.
        scale = tf.cast(self._optimizer.scale_loss(1.0), tf.float32)
        scale /= tf.distribute.get_strategy().num_replicas_in_sync
        gradients = [
            tf.zeros(v.shape)
            if g is None
            else tf.cast(tf.convert_to_tensor(g), tf.float32) / scale
            for g, v in zip(gradients, self._weights, strict=True)
        ]
        if self._scales is None:
            return gradients
        return [g * s for g, s in zip(gradients, self._scales, strict=True)]


class _GivenLoss(keras.Model):
    """Computes the given loss, plus the losses that the model adds."""

    def __init__(self, model):
        super().__init__(dtype=model.dtype_policy)
        self.model = model


def _estimate(moments, **fields):
    if not moments.shape[1]:
        return NoiseEstimate.from_sums(0, 0, 0, 0, 0, 0, **fields)
    count = moments.shape[1] + 1
    means, covariance = sequential_moments(*moments)
    errors = np.sqrt(np.diag(covariance))
    estimate = NoiseEstimate(
        grad_sq_norm=float(means[0]),
        noise_trace=float(means[1]),
        grad_sq_norm_se=float(errors[0]),
        noise_trace_se=float(errors[1]),
        covariance=float(covariance[0, 1]),
        count=count,
        degrees_of_freedom=probe_degrees_of_freedom(count),
        **fields,
    )
    size = estimate.batch_size
    return estimate.corrected(
        sampling_correction(
            estimate.sampling, estimate.num_examples, size, size
        )
    )


def _distinct_paths(model):
    paths = [v.path for v in model.trainable_weights]
    return [
        f"{path}_{paths[:index].count(path)}" if path in paths[:index] else path
        for index, path in enumerate(paths)
    ]


def _check_num_examples(num_examples, batch_size, num_batches, sampling):
    needed, why = batch_size, f"a batch of {batch_size:,}"
    if sampling == "shuffle":
        needed *= num_batches
        why = f"{num_batches:,} disjoint batches of {batch_size:,}"
    elif sampling == "without_replacement":
        needed += 1
        why += " to differ from another"
    if num_examples < max(needed, 2):
        raise ValueError(
            f"`dataset` must have at least {max(needed, 2):,} examples for "
            f"{why}, got {num_examples:,}; use a smaller `batch_size`"
            f"{' or fewer batches' if sampling == 'shuffle' else ''}."
        )


def check_has_call(model):
    """Raises a `ValueError` if a model cannot be called on inputs."""
    model = _inner(model)
    if not overrides(model, "call"):
        raise ValueError(
            "`model` must have a `call`, from which its loss is computed, got "
            f"{type(model).__name__}, which has none; give it one, with the "
            "loss in `compute_loss` or `add_loss`, or measure a model in it "
            "by itself."
        )


def _inner(model):
    return model.model if isinstance(model, ModelWrapper) else model


def _check_targets(model, batch, loss):
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    own = loss is None and overrides(_inner(model), "compute_loss")
    if y is None and not own and (loss or model.loss) is not None:
        raise ValueError(
            "`dataset` must have targets y for the loss of the model, got "
            "inputs x alone; give (x, y), or a model without a compiled loss "
            "that adds its own."
        )


def _check_model(model, batch_size):
    if not model.trainable_weights:
        raise ValueError(
            "`model` has no trainable weights, so it has no gradient to "
            "measure; set `trainable` on some of its layers."
        )
    if batch_size == 1 and has_batch_normalization(model):
        raise ValueError(
            "`batch_size` must be at least 2 for a model with "
            "BatchNormalization, got 1: a single example has no variance."
        )
