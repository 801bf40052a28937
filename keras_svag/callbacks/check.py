"""A callback that judges the linear scaling rule at the end of training."""

import dataclasses
import math
import numbers

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_svag.arguments import (
    checked_boolean,
    checked_closeness,
    checked_integer,
    checked_kappas,
    checked_path,
    checked_tolerance,
)
from keras_svag.callbacks.conditions import (
    decayed_sq_norm,
    find_metric,
    first_inputs,
    has_finite_weights,
    run_conditions,
)
from keras_svag.callbacks.report import (
    NoiseEpoch,
    epochs_from_state,
    linear_scaling_report,
)
from keras_svag.callbacks.tensorboard import NoiseSummaries
from keras_svag.noise.sampling import sampling_correction
from keras_svag.probe.examples import open_examples
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise


class LinearScalingRuleCheck(keras.callbacks.Callback):
    """Measures N / G and says how far the linear scaling rule can carry a run.

    The noise is that of an `SVAGModel`, which measures it for free while it
    trains:

    ```python
    model = keras_svag.SVAGModel(model, num_examples=len(x))
    model.compile(optimizer="sgd", loss="mse")
    check = keras_svag.LinearScalingRuleCheck(batch_size=128)
    model.fit(x, y, batch_size=128, epochs=40, callbacks=[check])
    check.report.verdict.max_batch_size
    ```

    or, with `probe`, is measured at fixed weights at the end of epochs: for
    any model, BatchNormalization included, whose training it does not touch:

    ```python
    check = keras_svag.LinearScalingRuleCheck(batch_size=128, probe=(x, y))
    model.fit(x, y, batch_size=128, epochs=40, callbacks=[check])
    ```

    G, N and the squared weight norm are averaged over the last epochs: over
    the longest tail with one learning rate, up to `window` epochs. Earlier
    stretches of constant learning rate are judged too.

    The same object goes on through further calls of `fit` and through
    `keras.callbacks.BackupAndRestore`: an epoch that is trained anew replaces
    what is known of it and of the epochs after it. `state_dict` and
    `load_state_dict` carry it into another process.

    Args:
        batch_size: B, the simulated batch size, over all replicas.
        closeness: C, above 1: how close two runs are asked to be, the ratios
            of their equilibrium statistics within [1/C, C].
        kappas: factors on the batch size to judge, each at least 1.
        window: epochs to average over; a quarter of those trained if None.
        num_examples: size of the training set, if `SVAGModel` was not told.
        probe: data to measure on, as for `measure_gradient_noise`.
        probe_every: epochs from one probe to the next; the last epoch is
            always probed.
        rtol: relative standard error of N / G at which a probe stops early.
        log_dir: directory for TensorBoard; events go to its subdirectory
            `linear_scaling`. A point is what the report would say then.
        probe_batches: mini-batches of a probe, at most.
        per_layer: whether a probe measures each variable apart too.
        scale_invariant: whether the loss is invariant to the scale of all
            trainable weights: `True`, `False`, or a batch of inputs on which
            to measure it. None: measured on the probe's data, otherwise not
            known, which makes the verdict a heuristic.
        verbose: 1 prints the report at the end of training, 0 does not.

    Attributes:
        report: `LinearScalingReport` after training, None before.

    Raises:
        ValueError: if an argument is out of range; at the start of training,
            if there is nothing to measure or the window is longer than the
            run; in the first epoch, if `batch_size` is not the one measured.
    """

    def __init__(
        self,
        batch_size,
        closeness=2**0.5,
        kappas=(2, 4, 8, 16),
        window=None,
        num_examples=None,
        probe=None,
        probe_every=1,
        rtol=None,
        log_dir=None,
        *,
        probe_batches=32,
        per_layer=False,
        scale_invariant=None,
        verbose=1,
    ):
        super().__init__()
        self.batch_size = checked_integer("batch_size", batch_size)
        self.closeness = checked_closeness(closeness)
        self.kappas = checked_kappas(kappas)
        self.window = checked_integer("window", window, optional=True)
        self.num_examples = checked_integer(
            "num_examples",
            num_examples,
            smallest=max(2, self.batch_size),
            optional=True,
        )
        self.probe = probe
        self.probe_every = checked_integer("probe_every", probe_every)
        self.probe_batches = checked_integer(
            "probe_batches", probe_batches, smallest=4
        )
        self.rtol = checked_tolerance(rtol)
        self.per_layer = checked_boolean("per_layer", per_layer)
        self.log_dir = checked_path("log_dir", log_dir)
        self.verbose = checked_verbosity(verbose)
        self.report = None
        self._scale_invariant = checked_invariance(scale_invariant)
        self._epochs = []
        self._rates = EpochLearningRates()
        self._postponed = None
        self._summaries = None

    def on_train_begin(self, logs=None):
        self._metric = find_metric(self.model)
        self._postponed = None
        check_trainable_weights(self.model)
        if self.probe is not None:
            check_probe(self.probe, self.model, self.batch_size)
        else:
            check_metric(self._metric)
        check_window(self.window, self.params.get("epochs"))
        if self.model.built:
            # While the weights are sure to be sound.
            self._is_scale_invariant()

    def on_epoch_begin(self, epoch, logs=None):
        # What is trained anew, after a restart or from the start, is stale.
        self._epochs = [e for e in self._epochs if e.epoch <= epoch]
        self._rates = EpochLearningRates(self.model.optimizer)

    def on_train_batch_begin(self, batch, logs=None):
        self._rates.before_step()
        if batch > 0:
            self._check_sizes()

    def on_epoch_end(self, epoch, logs=None):
        self._check_sizes()
        is_last = epoch + 1 == self.params.get("epochs")
        is_due = is_last or (epoch + 1) % self.probe_every == 0
        if self.probe is None or is_due:
            self._add_epoch(epoch, logs or {})
        else:
            self._postponed = epoch

    def on_train_end(self, logs=None):
        if self._postponed is not None:
            # Training stopped early, between two probes.
            self._add_epoch(self._postponed, {})
        if not self._epochs:
            return
        self.report = self._report(self._epochs)
        if self.verbose and self._is_chief():
            print(self.report)
        if self._summaries is not None:
            self._summaries.write_report(self.report)
            self._summaries.close()
            self._summaries = None

    def _add_epoch(self, epoch, logs):
        self._postponed = None
        if self.probe is not None:
            estimate = self._probed(seed=epoch)
            moments = estimate.grad_sq_norm, estimate.noise_trace
        else:
            estimate, moments = self._measured_by_training()
        weight_sq_norm = logs.get("weight_sq_norm")
        if weight_sq_norm is None or self.probe is not None:
            weight_sq_norm = decayed_sq_norm(self.model)
        self._epochs.append(
            NoiseEpoch(
                epoch + 1,
                estimate,
                moments,
                float(weight_sq_norm),
                *self._rates.ends(),
            )
        )
        if self.log_dir is not None and self._is_chief():
            if self._summaries is None:
                self._summaries = NoiseSummaries(self.log_dir)
            self._summaries.write_epoch(self._report(self._epochs))

    def state_dict(self):
        """What the callback has seen, as plain values for strict JSON."""
        return {
            "batch_size": self.batch_size,
            "epochs": [epoch.to_state() for epoch in self._epochs],
            "postponed": self._postponed,
            "first_learning_rate": self._rates.first,
        }

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: if it is of another batch size, or damaged.
        """
        batch_size, epochs = epochs_from_state(state)
        if batch_size != self.batch_size:
            raise ValueError(
                f"`batch_size` must be that of the saved state, "
                f"{batch_size}, got {self.batch_size}."
            )
        self._epochs = epochs
        # Not in a state that was saved before the two were.
        self._postponed = state.get("postponed")
        self._rates.first = state.get("first_learning_rate")

    def _report(self, epochs):
        return linear_scaling_report(
            epochs,
            run_conditions(
                self.model,
                self._is_scale_invariant(),
                halves_measured=self.probe is None,
            ),
            batch_size=self.batch_size,
            closeness=self.closeness,
            kappas=self.kappas,
            window=self.window,
        )

    def _measured_by_training(self):
        """The epoch's estimate, and (G, N) not corrected for sampling."""
        metric = self._metric
        estimate = metric.estimate()
        if metric.num_examples is None and self.num_examples is not None:
            estimate = dataclasses.replace(
                estimate, num_examples=self.num_examples
            ).corrected(
                sampling_correction(
                    metric.sampling,
                    self.num_examples,
                    metric.batch_size,
                    metric.sub_batch_size,
                )
            )
        sums = metric.sums()
        count = sums.count or math.nan
        return estimate, (sums.sum_g / count, sums.sum_n / count)

    def _probed(self, seed):
        return measure_gradient_noise(
            self.model,
            self.probe,
            self.batch_size,
            self.probe_batches,
            rtol=self.rtol,
            per_layer=self.per_layer,
            seed=seed,
            verbose=0,
        )

    def _is_scale_invariant(self):
        given = self._scale_invariant
        if given is None and self.probe is not None:
            given = first_inputs(self.probe, self.model, self.batch_size)
        if given is not None and not isinstance(given, bool):
            if not has_finite_weights(self.model):
                return None
            given = is_scale_invariant(self.model, given)
        self._scale_invariant = given
        return given

    def _check_sizes(self):
        if self.probe is None:
            check_sizes(self._metric, self.batch_size, self.num_examples)

    def _is_chief(self):
        return self.model.distribute_strategy.extended.should_save_summary


def checked_verbosity(verbose):
    """`verbose`, if it is 0 or 1."""
    if not isinstance(verbose, numbers.Integral) or verbose not in (0, 1):
        raise ValueError(f"`verbose` must be 0 or 1, got {verbose!r}.")
    return verbose


def checked_invariance(scale_invariant):
    """`scale_invariant`, if it is None, a boolean or may be a batch."""
    if isinstance(scale_invariant, np.bool_):
        return bool(scale_invariant)
    if isinstance(scale_invariant, bool):
        return scale_invariant
    if isinstance(scale_invariant, (str, numbers.Number)):
        raise ValueError(
            "`scale_invariant` must be None, True, False or a batch of inputs, "
            f"got {scale_invariant!r}."
        )
    return scale_invariant


def check_trainable_weights(model):
    """Raises if a built model has nothing to train."""
    if model.built and not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable weights, so there is "
            "no gradient whose noise could be measured; make a layer trainable."
        )


def check_metric(metric):
    """Raises if there is no noise metric."""
    if metric is None:
        raise ValueError(
            "LinearScalingRuleCheck found no gradient noise to read: wrap the "
            "model in keras_svag.SVAGModel(model), with measure_noise, or pass "
            "probe=(x, y)."
        )


def check_probe(data, model, batch_size):
    """Raises if a probe could not draw a batch from `data`."""
    num_examples = open_examples(data, model).num_examples
    if num_examples < batch_size:
        raise ValueError(
            f"`probe` must have at least {batch_size:,} examples, those of a "
            f"batch, got {num_examples:,}."
        )


def check_window(window, epochs):
    """Raises if the window is longer than a run of so many epochs."""
    if window and epochs and window > epochs:
        raise ValueError(
            f"`window` must be at most the {epochs} epochs of the run, got "
            f"{window}."
        )


def check_sizes(metric, batch_size, num_examples):
    """Raises if the metric knows of other sizes, as far as it knows any."""
    if metric.batch_size not in (None, batch_size):
        raise ValueError(
            f"`batch_size` must be {metric.batch_size}, at which the noise of "
            f"this run is measured, got {batch_size}; it is the batch size of "
            "the SGD that is simulated, over all replicas: half of the batches "
            "that are fed for SVAG with pairing='independent', otherwise all "
            "of them."
        )
    if num_examples is not None and metric.num_examples not in (
        None,
        num_examples,
    ):
        raise ValueError(
            f"`num_examples` must be {metric.num_examples}, as the SVAGModel "
            f"was told, or left out, got {num_examples}."
        )


class EpochLearningRates:
    """The learning rates of an epoch's first and last step.

    Args:
        optimizer: that of the model; None for an epoch that has not begun.

    Attributes:
        first: learning rate of the first step, a float, or None before it.
            What is set here counts as that of a step before.
    """

    def __init__(self, optimizer=None):
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._first = None
        self._last = None

    @property
    def first(self):
        return None if self._first is None else _as_float(self._first)

    @first.setter
    def first(self, rate):
        self._first = rate

    def before_step(self):
        """To be called before every step, after the callbacks that set η."""
        # Evaluating a schedule before each step would be slow; reading a
        # variable to the host would make training wait for the device.
        if self._first is None or not self._is_scheduled:
            rate = ops.convert_to_tensor(self._optimizer.learning_rate)
            # The variable itself would be read after it has changed.
            self._last = tf.identity(rate)
        if self._first is None:
            self._first = self._last

    def ends(self):
        """`(first, last)` after the epoch's last step."""
        last = self._last
        if self._is_scheduled:
            last = self._scheduled_at_last_step()
        return self.first, _as_float(last)

    @property
    def _is_scheduled(self):
        return isinstance(
            self._optimizer._learning_rate,
            keras.optimizers.schedules.LearningRateSchedule,
        )

    def _scheduled_at_last_step(self):
        optimizer = self._optimizer
        ell = getattr(optimizer, "ell", 1)
        if hasattr(optimizer, "effective_iterations"):
            steps = round(optimizer.effective_iterations * ell)
        else:
            steps = int(ops.convert_to_numpy(optimizer.iterations))
        return optimizer._learning_rate(max(steps - 1, 0) // ell)


def _as_float(rate):
    # Through its shortest digits: 0.1 in float32 is 0.1, not 0.10000000149.
    return float(str(ops.convert_to_numpy(rate)))
