"""A callback that judges the linear scaling rule at the end of training."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_svag import arguments
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
from keras_svag.models.internals import (
    inner_optimizer,
    is_chief,
    learning_rate_schedule,
)
from keras_svag.noise.sampling import sampling_correction
from keras_svag.probe.examples import open_examples
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import (
    check_has_call,
    measure_gradient_noise,
)
from keras_svag.scaling.bounds import checked_closeness
from keras_svag.scaling.verdict import checked_kappas


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
        TypeError: if an argument is no number.
        ValueError: if one is out of range; at the start of training,
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
        self.batch_size = arguments.integer("batch_size", batch_size)
        self.closeness = checked_closeness(closeness)
        self.kappas = checked_kappas(kappas)
        self.window = arguments.integer("window", window, optional=True)
        self.num_examples = arguments.integer(
            "num_examples",
            num_examples,
            least=max(2, self.batch_size),
            optional=True,
        )
        self.probe = probe
        self.probe_every = arguments.integer("probe_every", probe_every)
        self.probe_batches = arguments.integer(
            "probe_batches", probe_batches, least=4
        )
        self.rtol = arguments.number("rtol", rtol, above=0, optional=True)
        self.per_layer = per_layer
        self.log_dir = log_dir
        self.verbose = verbose
        self.report = None
        self._scale_invariant = scale_invariant
        self._epochs = []
        self._rates = EpochLearningRates()
        self._postponed = None
        self._summaries = None

    def on_train_begin(self, logs=None):
        self._metric = find_metric(self.model)
        self._postponed = None
        if self.model.built and not self.model.trainable_variables:
            raise ValueError(
                f"The model {self.model.name!r} has no trainable weights, so "
                "there is no gradient whose noise could be measured; make a "
                "layer trainable."
            )
        if self.probe is None and self._metric is None:
            raise ValueError(
                "LinearScalingRuleCheck found no gradient noise to read; wrap "
                "the model in keras_svag.SVAGModel(model), with measure_noise, "
                "or pass probe=(x, y)."
            )
        if self.probe is not None:
            check_has_call(self.model)
            # Counted once, where the data do not say their number.
            self._examples = examples = open_examples(self.probe, self.model)
            if examples.num_examples < self.batch_size:
                raise ValueError(
                    f"`probe` must have at least {self.batch_size:,} examples, "
                    f"those of a batch, got {examples.num_examples:,}."
                )
        arguments.integer(
            "window",
            self.window,
            most=self.params.get("epochs"),
            optional=True,
            remedy="the run has no more epochs",
        )
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
        if self.verbose and is_chief(self.model.distribute_strategy):
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
                *self._rates.first_and_last(),
            )
        )
        if self.log_dir is not None and is_chief(
            self.model.distribute_strategy
        ):
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
                arguments.refusal(
                    "batch_size",
                    f"that of the saved state, {batch_size}",
                    self.batch_size,
                )
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
            self._examples,
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
            given = first_inputs(self._examples, self.model, self.batch_size)
        if given is not None and not isinstance(given, (bool, np.bool_)):
            if not has_finite_weights(self.model):
                return None
            given = is_scale_invariant(self.model, given)
        self._scale_invariant = given
        return given

    def _check_sizes(self):
        metric = self._metric
        if self.probe is not None:
            return
        if metric.batch_size not in (None, self.batch_size):
            raise ValueError(
                arguments.refusal(
                    "batch_size",
                    f"{metric.batch_size}, at which the noise of this run is "
                    "measured",
                    self.batch_size,
                    "it is the batch size of the SGD that is simulated, over "
                    "all replicas: half of the batches that are fed for SVAG "
                    "with pairing='independent', otherwise all of them",
                )
            )
        if self.num_examples is not None and metric.num_examples not in (
            None,
            self.num_examples,
        ):
            raise ValueError(
                arguments.refusal(
                    "num_examples",
                    f"{metric.num_examples}, as the SVAGModel was told",
                    self.num_examples,
                    "leave it out",
                )
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
        self._optimizer = inner_optimizer(optimizer)
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

    def first_and_last(self):
        """`(first, last)` after the epoch's last step."""
        last = self._last
        if self._is_scheduled:
            last = self._scheduled_at_last_step()
        return self.first, _as_float(last)

    @property
    def _is_scheduled(self):
        return learning_rate_schedule(self._optimizer) is not None

    def _scheduled_at_last_step(self):
        optimizer = self._optimizer
        ell = getattr(optimizer, "ell", 1)
        if hasattr(optimizer, "effective_iterations"):
            steps = round(optimizer.effective_iterations * ell)
        else:
            steps = int(ops.convert_to_numpy(optimizer.iterations))
        return learning_rate_schedule(optimizer)(max(steps - 1, 0) // ell)


def _as_float(rate):
    # Through its shortest digits: 0.1 in float32 is 0.1, not 0.10000000149.
    return float(str(ops.convert_to_numpy(rate)))
