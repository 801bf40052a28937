"""Callbacks that judge a scaling rule from a training run."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

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
    scale_invariance_of_training,
)
from keras_svag.callbacks.report import (
    LOG_KEYS,
    NoiseEpoch,
    ScalingReport,
    epochs_from_state,
    scaling_report,
    without_old_layers,
)
from keras_svag.callbacks.tensorboard import NoiseSummaries
from keras_svag.models.internals import (
    inner_optimizer,
    is_chief,
    learning_rate_schedule,
)
from keras_svag.noise.estimate import NoiseEstimate, PairSums
from keras_svag.noise.pooling import observed_since
from keras_svag.noise.sampling import sampling_correction
from keras_svag.probe.examples import open_examples
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import (
    check_has_call,
    measure_gradient_noise,
)
from keras_svag.scaling.bounds import checked_closeness
from keras_svag.scaling.conditions import rule_of, square_root_refusal
from keras_svag.scaling.verdict import checked_kappas


class ScalingRuleCheck(keras.callbacks.Callback):
    """Measures N / G and says how far a scaling rule can carry a run.

    The rule is the linear one for SGD ("batch × κ, learning rate × κ"), and
    the square-root rule for Adam and its kin, whose N / G is that of the
    gradients as the optimizer scales them: see `SVAGModel`. Its condition is
    derived, from the effective learning rates of the coordinates, and needs
    neither scale invariance nor weight decay.

    The noise is that of an `SVAGModel`, which measures it for free while it
    trains:

    ```python
    model = keras_svag.SVAGModel(model, num_examples=len(x))
    model.compile(optimizer="sgd", loss="mse")
    check = keras_svag.ScalingRuleCheck()
    model.fit(x, y, batch_size=128, epochs=40, callbacks=[check])
    check.report.verdict.max_batch_size
    ```

    or, with `probe`, is measured at fixed weights at the end of epochs: for
    any model, BatchNormalization included, whose training it does not touch:

    ```python
    check = keras_svag.ScalingRuleCheck(batch_size=128, probe=(x, y))
    model.fit(x, y, batch_size=128, epochs=40, callbacks=[check])
    ```

    G, N and the squared weight norm are averaged over the last epochs: over
    the longest tail with one learning rate, up to `window` epochs. Earlier
    stretches of constant learning rate are judged too.

    In fine-tuning, which takes one to three epochs, the window is given in
    training steps: the noise is then read about ten times a window, and
    `report` is up to date within an epoch. A learning rate that changes at
    every step is averaged over the window.

    ```python
    check = keras_svag.ScalingRuleCheck(
        window="500 steps", log_dir="logs", update_freq=100
    )
    ```

    At the end of an epoch the verdict so far is in the logs, for `History` and
    for all callbacks that come after this one: `max_batch_size` with its ends
    `max_batch_size_low` and `max_batch_size_high`, `noise_to_signal_low` and
    `noise_to_signal_high`; NaN where there is none, infinity for no upper end.

    The errors over a window are those between blocks of time that are longer
    than the correlation of the observations; the report says how many. Where
    few bursts or few blocks carry the sums it says "few effective
    observations", and the interval is wide. Of a single probe the interval
    holds for the weights that were probed only, not for the run.

    The same object goes on through further calls of `fit` and through
    `keras.callbacks.BackupAndRestore`: an epoch that is trained anew replaces
    what is known of it and of the epochs after it. `state_dict` and
    `load_state_dict` carry it into another process.

    Args:
        batch_size: B, the simulated batch size, over all replicas and over
            all batches whose gradients the optimizer accumulates. None: the
            one at which the `SVAGModel` measures; a probe needs it.
        rule: `"linear"`, `"square_root"`, or `"auto"`, which goes by the
            optimizer.
        closeness: C, above 1: how close two runs are asked to be, the ratios
            of their equilibrium statistics within [1/C, C].
        kappas: factors on the batch size to judge, each at least 1.
        window: epochs to average over, or training steps, as in
            `"500 steps"`; a quarter of the epochs trained if None.
        num_examples: size of the training set, if `SVAGModel` was not told.
        probe: data to measure on, as for `measure_gradient_noise`.
        probe_every: epochs from one probe to the next; the last epoch is
            always probed.
        rtol: relative standard error of N / G at which a probe stops early.
            Each side of its interval then errs in 6 to 8% of cases, not in
            the nominal 2.5%.
        log_dir: directory for TensorBoard; events go to its subdirectory
            `linear_scaling`. A point is what the report would say then.
        update_freq: `"epoch"`: points at the ends of epochs, over the epochs.
            An integer: every so many training steps of an epoch and at its
            end, over the steps.
        probe_batches: mini-batches of a probe, at most.
        per_layer: whether a probe measures each variable apart too.
        scale_invariant: whether the loss is invariant to the scale of all
            trainable weights: `True`, `False`, or a batch of inputs on which
            to measure it. None: measured on the first rows of the probe's
            data, or of the arrays that `fit` was given, or on random inputs
            of the shapes that the model declares. Where that fails it is not
            known, which makes the verdict a heuristic.
        verbose: 1 prints the report at the end of training, 0 does not.

    Attributes:
        report: `ScalingReport` on what was trained until the end of the
            last epoch, or of the last tenth of a window of steps; None before.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if one is out of range; at the start of training,
            if there is nothing to measure or the window is longer than the
            run; in the first epoch, if `batch_size` is not the one measured.
    """

    report: ScalingReport | None

    def __init__(
        self,
        batch_size: int | None = None,
        rule: Literal["auto", "linear", "square_root"] = "auto",
        closeness: float = 2**0.5,
        kappas: tuple[float, ...] | list[float] = (2, 4, 8, 16),
        window: int | str | None = None,
        num_examples: int | None = None,
        probe: Any = None,
        probe_every: int = 1,
        rtol: float | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        probe_batches: int = 32,
        per_layer: bool = False,
        scale_invariant: Any = None,
        verbose: int = 1,
        update_freq: int | Literal["epoch"] = "epoch",
    ) -> None:
        super().__init__()
        self.batch_size = arguments.integer(
            "batch_size",
            batch_size,
            optional=probe is None,
            remedy="a probe draws batches of this size",
        )
        self.rule = arguments.choice(
            "rule", rule, ("auto", "linear", "square_root")
        )
        self._follows_batch_size = batch_size is None
        self.closeness = checked_closeness(closeness)
        self.kappas = checked_kappas(kappas)
        self.window = window
        self._window, self._in_steps = _parsed_window(window)
        self.update_freq = _checked_update_freq(update_freq)
        self.num_examples = arguments.integer(
            "num_examples",
            num_examples,
            least=max(2, self.batch_size or 2),
            optional=True,
        )
        self.probe = probe
        if probe is not None:
            self._check_measures_within_epochs_by_training()
        self.probe_every = arguments.integer("probe_every", probe_every)
        self.probe_batches = arguments.integer(
            "probe_batches", probe_batches, least=4
        )
        self.rtol = arguments.number("rtol", rtol, above=0, optional=True)
        self.per_layer = per_layer
        self.log_dir = log_dir
        self.verbose = verbose
        self.report = None
        self._rule = None if rule == "auto" else rule
        self._optimizer_steps = None
        self._scale_invariant = scale_invariant
        self._is_invariance_asked = False
        self._epochs: list[NoiseEpoch] = []
        self._rates = EpochLearningRates()
        self._postponed: int | None = None
        self._summaries = None
        self._within_epoch = _WithinEpoch()

    @property
    def _steps_between_readings(self):
        """Steps from one reading within an epoch to the next, or None."""
        steps = [self.update_freq] if self.update_freq != "epoch" else []
        if self._in_steps:
            # Of a single step it cannot be told whether its rate moves.
            steps.append(max(min(2, self._window), self._window // 10))
        return min(steps, default=None)

    def _check_measures_within_epochs_by_training(self):
        remedy = "a probe measures at the ends of epochs"
        if self._in_steps:
            raise ValueError(
                arguments.refusal(
                    "window", "epochs with `probe`", self.window, remedy
                )
            )
        if self.update_freq != "epoch":
            raise ValueError(
                arguments.refusal(
                    "update_freq",
                    "'epoch' with `probe`",
                    self.update_freq,
                    remedy,
                )
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        optimizer = type(inner_optimizer(self.model.optimizer)).__name__
        before = self._rule
        self._rule = self.rule
        if self.rule == "auto":
            self._rule = rule_of(optimizer)
        if before != self._rule:
            # What was measured in the norm of another optimizer.
            self._epochs = []
        self._is_preconditioned = (
            self._rule == "square_root"
            and square_root_refusal(optimizer) is None
        )
        self._metric = find_metric(self.model, self._is_preconditioned)
        self._postponed = None
        if self.model.built and not self.model.trainable_variables:
            raise ValueError(
                f"The model {self.model.name!r} has no trainable weights, so "
                "there is no gradient whose noise could be measured; make a "
                "layer trainable."
            )
        if self.probe is None and self._metric is None:
            raise ValueError(
                f"{type(self).__name__} found no gradient noise to read; wrap "
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
        self._check_window_fits()
        if self.model.built:
            # While the weights are sure to be sound.
            self._is_scale_invariant()

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # What is trained anew, after a restart or from the start, is stale.
        self._epochs = [e for e in self._epochs if e.epoch <= epoch]
        before = self._epochs[-1].last_step if self._epochs else None
        self._within_epoch = _WithinEpoch(epoch + 1, before or 0)
        self._rates = EpochLearningRates(self.model.optimizer)
        self._optimizer_steps = self._optimizer_steps_now()

    def _optimizer_steps_now(self):
        iterations = inner_optimizer(self.model.optimizer).iterations
        return int(ops.convert_to_numpy(iterations))

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # Not at a batch's end: Keras would then wait for the logs of each.
        if batch > 0:
            self._check_sizes()
        within, every = self._within_epoch, self._steps_between_readings
        within.steps = batch
        if every is not None and batch - within.steps_read >= every:
            self._read_within_epoch()
        self._rates.before_step()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._check_sizes()
        logs = {} if logs is None else logs
        is_last = epoch + 1 == self.params.get("epochs")
        is_due = is_last or (epoch + 1) % self.probe_every == 0
        if self.params.get("steps") is not None or self.model.stop_training:
            # Else the last step that began found no more data.
            self._within_epoch.steps += self.model.steps_per_execution
        if self.probe is None or is_due:
            self._add_epoch(epoch, logs)
            logs.update(self.report.to_logs())  # type: ignore[union-attr]
        else:
            self._postponed = epoch
            logs.update(dict.fromkeys(LOG_KEYS, math.nan))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.probe is not None and self._postponed is not None:
            # Training stopped early, between two probes.
            self._add_epoch(self._postponed, {})
        if not self._epochs:
            return
        self.report = self._report(self._epochs)
        if self.verbose and is_chief(self.model.distribute_strategy):
            print(self.report)
        if self._summaries is not None:
            self._summaries.write_report(
                self.report, self._place_of(self._epochs[-1])
            )
            self._summaries.close()
            self._summaries = None

    def _add_epoch(self, epoch, logs):
        """Adds what is not yet known of an epoch that has ended."""
        self._postponed = None
        within = self._within_epoch
        if self.probe is not None:
            estimate = self._probed(seed=epoch)
            moments = estimate.grad_sq_norm, estimate.noise_trace
            self._optimizer_steps = self._optimizer_steps_now()
            measured = self._noise_epoch(epoch + 1, estimate, moments)
        elif self._in_steps:
            measured = self._measured_since_last_reading()
        else:
            measured = self._noise_epoch(
                epoch + 1,
                *self._measured_by_training(),
                logs.get("weight_sq_norm"),
                first_step=within.steps_before + 1,
                last_step=within.steps_before + within.steps,
            )
        if measured is not None:
            self._epochs.append(measured)
        self.report = self._report(self._epochs)
        self._write_scalars(self.report, self._epochs[-1])

    def _read_within_epoch(self):
        """Reads the metric, as all the workers do after the same steps."""
        within = self._within_epoch
        if self._in_steps:
            measured = self._measured_since_last_reading()
            self._epochs = without_old_layers(
                [*self._epochs, measured], self._window
            )
            self.report = self._report(self._epochs)
            report = self.report
        else:
            measured = self._noise_epoch(
                within.epoch,
                *self._measured_by_training(),
                first_step=within.steps_before + 1,
                last_step=within.steps_before + within.steps,
            )
            report = self._report([*self._epochs, measured])
        within.steps_read = within.steps
        if self.update_freq != "epoch":
            written = within.steps - within.steps_written
            if written >= self.update_freq:
                self._write_scalars(report, measured)
                within.steps_written = within.steps

    def _measured_since_last_reading(self):
        """The `NoiseEpoch` of the steps in between; None if there are none."""
        within = self._within_epoch
        if self._epochs and within.steps == within.steps_read:
            return None
        estimate, sums = seen = self._estimate(), self._metric.sums()
        if within.seen is not None:
            earlier, earlier_sums = within.seen
            estimate = observed_since(estimate, earlier)
            sums = sums - earlier_sums
        first = within.steps_before + within.steps_read + 1
        within.seen = seen
        measured = self._noise_epoch(
            within.epoch,
            estimate,
            _mean_moments(sums),
            first_step=first,
            last_step=within.steps_before + within.steps,
        )
        self._rates = EpochLearningRates(self.model.optimizer)
        self._optimizer_steps = self._optimizer_steps_now()
        return measured

    def _noise_epoch(
        self, epoch, estimate, moments, weight_sq_norm=None, **steps
    ):
        if weight_sq_norm is None:
            weight_sq_norm = decayed_sq_norm(self.model)
        return NoiseEpoch(
            epoch,
            estimate,
            moments,
            float(weight_sq_norm),
            *self._rates.first_and_last(),
            optimizer_steps=self._optimizer_steps,
            **steps,
        )

    def _write_scalars(self, report, measured):
        if self.log_dir is None or not is_chief(self.model.distribute_strategy):
            return
        if self._summaries is None:
            self._summaries = NoiseSummaries(self.log_dir)
        self._summaries.write_scalars(report, self._place_of(measured))

    def _place_of(self, measured):
        """Where TensorBoard shows it: at an epoch, or at a training step."""
        if self.update_freq == "epoch":
            return measured.epoch
        return measured.last_step

    def state_dict(self) -> dict[str, Any]:
        """What the callback has seen, as plain values for strict JSON."""
        return {
            "batch_size": self.batch_size,
            "rule": self._rule,
            "epochs": [epoch.to_state() for epoch in self._epochs],
            "postponed": self._postponed,
            "first_learning_rate": self._rates.first,
            "last_learning_rate": self._rates.last,
            "within_epoch": self._within_epoch.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: if it is of another batch size or rule, or damaged.
        """
        batch_size, epochs = epochs_from_state(state)
        # States before there were two rules do not say.
        rule = state.get("rule")
        if rule is not None and self.rule not in ("auto", rule):
            raise ValueError(
                arguments.refusal(
                    "rule", f"that of the saved state, {rule!r}", self.rule
                )
            )
        if self._follows_batch_size:
            self.batch_size = batch_size
        if batch_size != self.batch_size:
            raise ValueError(
                arguments.refusal(
                    "batch_size",
                    f"that of the saved state, {batch_size}",
                    self.batch_size,
                )
            )
        # None of these is in the oldest states.
        postponed = arguments.integer(
            "postponed", state.get("postponed"), least=0, optional=True
        )
        first, last = (
            arguments.number(name, state.get(name), least=0, optional=True)
            for name in ("first_learning_rate", "last_learning_rate")
        )
        within_epoch = _WithinEpoch.from_state(state.get("within_epoch"))
        self._rule = rule or "linear"
        self._epochs = epochs
        self._postponed = postponed
        self._rates.first, self._rates.last = first, last
        self._within_epoch = within_epoch

    def _report(self, epochs):
        return scaling_report(
            epochs,
            run_conditions(
                self.model,
                self._is_scale_invariant(),
                halves_measured=self.probe is None,
                rule=self._rule,
            ),
            batch_size=self.batch_size,
            closeness=self.closeness,
            kappas=self.kappas,
            window=self._window,
            in_steps=self._in_steps,
        )

    def _measured_by_training(self):
        """The epoch's estimate, and (G, N) not corrected for sampling."""
        return self._estimate(), _mean_moments(self._metric.sums())

    def _estimate(self):
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
        return estimate

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
            preconditioned=self._is_preconditioned,
        )

    def _is_scale_invariant(self):
        if self._rule == "square_root":
            # Its condition does not ask.
            return None
        given = self._scale_invariant
        if given is None and self.probe is not None:
            given = first_inputs(self._examples, self.model, self.batch_size)
        if given is not None and not isinstance(given, (bool, np.bool_)):
            if not has_finite_weights(self.model):
                return None
            given = is_scale_invariant(self.model, given)
        elif given is None and not self._is_invariance_asked:
            given = scale_invariance_of_training(self.model)
            self._is_invariance_asked = True
        self._scale_invariant = given
        return given

    def _check_window_fits(self):
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if not self._in_steps:
            arguments.integer(
                "window",
                self._window,
                most=epochs,
                optional=True,
                remedy="the run has no more epochs",
            )
        elif steps and not self._epochs and self._window > epochs * steps:
            raise ValueError(
                arguments.refusal(
                    "window",
                    f"at most {epochs * steps} steps",
                    self.window,
                    "the run has no more",
                )
            )

    def _check_sizes(self):
        metric = self._metric
        if self.probe is not None:
            return
        if self._follows_batch_size:
            self.batch_size = metric.batch_size
        if metric.batch_size not in (None, self.batch_size):
            raise ValueError(
                arguments.refusal(
                    "batch_size",
                    f"{metric.batch_size}, at which the noise of this run is "
                    "measured",
                    self.batch_size,
                    "it is the batch size of the SGD that is simulated, over "
                    "all replicas: half of the batches that are fed for SVAG "
                    "with pairing='independent', all of those that are "
                    "accumulated for one update, otherwise all of them",
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


class LinearScalingRuleCheck(ScalingRuleCheck):
    """`ScalingRuleCheck` with `rule="linear"`: for SGD, and nothing else.

    Args:
        batch_size: as for `ScalingRuleCheck`.
        closeness, kappas, window, num_examples, probe, probe_every, rtol,
            log_dir: as there and in this order.
        **kwargs: the others.
    """

    def __init__(
        self, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(batch_size, "linear", *args, **kwargs)


def _parsed_window(window):
    """`(size, in_steps)` of a window as a user gives it."""
    if isinstance(window, str):
        match = re.fullmatch(r"([1-9][0-9]*) steps?", window)
        if match:
            return int(match[1]), True
    remedy = "a number of steps is written as '500 steps'"
    return (
        arguments.integer("window", window, optional=True, remedy=remedy),
        False,
    )


def _checked_update_freq(update_freq):
    if update_freq == "epoch":
        return update_freq
    if isinstance(update_freq, str):
        raise ValueError(
            arguments.refusal(
                "update_freq", "'epoch' or a number of steps", update_freq
            )
        )
    return arguments.integer("update_freq", update_freq)


def _mean_moments(sums):
    """(G, N) of the observations as they are, not corrected for sampling."""
    count = sums.count or math.nan
    return sums.sum_g / count, sums.sum_n / count


@dataclasses.dataclass
class _WithinEpoch:
    """How far an epoch is trained, and what of its noise was read.

    Attributes:
        epoch: number of the epoch, counted from 1.
        steps_before: training steps before the epoch.
        steps: those of the epoch that are done.
        steps_read: those after which the metric was last read.
        steps_written: those after which TensorBoard last got a point.
        seen: estimate and sums of the metric then, or None.
    """

    epoch: int = 0
    steps_before: int = 0
    steps: int = 0
    steps_read: int = 0
    steps_written: int = 0
    seen: tuple[NoiseEstimate, PairSums] | None = None

    def to_state(self):
        state = vars(self) | {"steps": int(self.steps)}
        if self.seen is not None:
            state["seen"] = [value.to_dict() for value in self.seen]
        return state

    @classmethod
    def from_state(cls, state):
        state = dict(state or {})
        if state.get("seen") is not None:
            estimate, sums = state["seen"]
            state["seen"] = NoiseEstimate.from_dict(estimate), PairSums(**sums)
        within = cls(**state)
        for field in dataclasses.fields(cls):
            if field.name != "seen":
                arguments.integer(field.name, getattr(within, field.name), 0)
        return within


class EpochLearningRates:
    """The learning rates of an epoch's first and last step.

    Args:
        optimizer: that of the model; None for an epoch that has not begun.

    Attributes:
        first, last: learning rates of the first step and of the one before,
            floats, or None before the first. What is set here counts as that
            of a step before.
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

    @property
    def last(self):
        return None if self._last is None else _as_float(self._last)

    @last.setter
    def last(self, rate):
        self._last = rate

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
