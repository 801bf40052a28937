"""A callback that judges the linear scaling rule at the end of training."""

import dataclasses
import math

import keras

from keras_svag import preconditions
from keras_svag.arguments import (
    checked_boolean,
    checked_closeness,
    checked_integer,
    checked_kappas,
    checked_path,
    checked_tolerance,
)
from keras_svag.learning_rates import EpochLearningRates
from keras_svag.linear_scaling_report import linear_scaling_report
from keras_svag.noise.sampling import sampling_correction
from keras_svag.noise_epochs import NoiseEpoch, epochs_from_state
from keras_svag.noise_summaries import NoiseSummaries
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from keras_svag.run_conditions import (
    decayed_sq_norm,
    find_metric,
    first_inputs,
    has_finite_weights,
    run_conditions,
)


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
        self.verbose = preconditions.checked_verbosity(verbose)
        self.report = None
        self._scale_invariant = preconditions.checked_invariance(
            scale_invariant
        )
        self._epochs = []
        self._rates = EpochLearningRates()
        self._postponed = None
        self._summaries = None

    def on_train_begin(self, logs=None):
        self._metric = find_metric(self.model)
        self._postponed = None
        preconditions.check_trainable_weights(self.model)
        if self.probe is not None:
            preconditions.check_probe(self.probe, self.model, self.batch_size)
        else:
            preconditions.check_metric(self._metric)
        preconditions.check_window(self.window, self.params.get("epochs"))
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
            preconditions.check_sizes(
                self._metric, self.batch_size, self.num_examples
            )

    def _is_chief(self):
        return self.model.distribute_strategy.extended.should_save_summary
