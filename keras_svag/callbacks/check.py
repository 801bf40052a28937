"""A monitor that judges a scaling rule by the noise that it measures."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_svag import arguments, backend
from keras_svag.callbacks.monitor import GradientNoiseMonitor, Logs
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.reporting.report import LOG_KEYS, ScalingReport, scaling_report
from keras_svag.scaling.bounds import checked_closeness
from keras_svag.scaling.conditions import RunConditions, conditions_of
from keras_svag.scaling.verdict import KAPPAS, checked_kappas

# Enough to normalize a batch by its own statistics.
_ROWS = 8
_ANSWER = bool, type(None)
_INVARIANCE = "None, True, False or a batch of inputs of the model"


class ScalingRuleCheck(GradientNoiseMonitor):
    """Measures N/G and says how far a scaling rule can carry the run.

    ```python
    check = keras_svag.ScalingRuleCheck()
    model.fit(x, y, batch_size=128, epochs=40, callbacks=[check])
    check.report.verdict.max_batch_size
    ```

    The rule is the linear one for SGD ("batch × κ, learning rate × κ"), and
    the square-root rule for Adam and its kin, whose N/G is that in the norm in
    which they step. Both conditions are necessary: a batch is "ruled out" or
    "not ruled out", and no more is claimed. The square-root rule's condition is
    derived, from the effective learning rates of the coordinates, and needs
    neither scale invariance nor weight decay.

    G, N and R are averaged over the end of the run: over the last stretch with
    one learning rate, and of it over the last `window` epochs. Earlier
    stretches are judged too. A learning rate that changes at every step is
    averaged over the window.

    To the logs of `GradientNoiseMonitor`, which it is, the ends of epochs add
    the verdict so far: `max_batch_size` with its ends `max_batch_size_low` and
    `max_batch_size_high`, `noise_to_signal_low` and `noise_to_signal_high`; NaN
    where there is none, infinity for no upper end.

    Args:
        rule: `"linear"`, `"square_root"`, or `"auto"`, which goes by the
            optimizer.
        closeness: C, above 1: how close two runs are asked to be, the ratios
            of their equilibrium statistics within [1/C, C].
        kappas: Factors on the batch size to judge.
        window: Epochs to average over; a quarter of those trained if None.
        window_steps: Training steps to average over, in place of epochs.
        level: Level of the intervals, nominally half of the rest on each side.
        scale_invariant: Whether the loss is invariant to the scale of all
            trainable weights: True, False, or a batch of inputs on which to
            measure it. None: measured on a batch of the training; where that
            fails it is not known, which makes a linear verdict a heuristic.
        verbose: 0 prints nothing; 1 and 2 print the report at the end of
            training.
        **monitor: Arguments of `GradientNoiseMonitor`.

    Attributes:
        report: `ScalingReport` on what was observed so far; None before the
            first observation.

    Raises:
        TypeError: If an argument is no number where one is wanted.
        ValueError: If one is out of range; at the start of training, if the
            window is longer than the run, if the model cannot be called on
            the inputs in `scale_invariant`, or as `GradientNoiseMonitor`
            raises.
    """

    def __init__(
        self,
        *,
        rule: Literal["auto", "linear", "square_root"] = "auto",
        closeness: float = 2**0.5,
        kappas: tuple[float, ...] | list[float] = KAPPAS,
        window: int | None = None,
        window_steps: int | None = None,
        level: float = 0.95,
        scale_invariant: Any = None,
        verbose: int = 1,
        **monitor: Any,
    ) -> None:
        super().__init__(**monitor)
        self.rule = arguments.choice(
            "rule", rule, ("auto", "linear", "square_root")
        )
        self.closeness = checked_closeness(closeness)
        self.kappas = checked_kappas(kappas)
        self.window = arguments.integer("window", window, optional=True)
        self.window_steps = arguments.integer(
            "window_steps", window_steps, optional=True
        )
        if window is not None and window_steps is not None:
            wanted = "None where `window` gives the epochs"
            raise arguments.wrong("window_steps", wanted, window_steps)
        self.level = arguments.number("level", level, above=0, below=1)
        if isinstance(scale_invariant, np.bool_):
            scale_invariant = bool(scale_invariant)
        if not isinstance(scale_invariant, _ANSWER):
            leaves = keras.tree.flatten(scale_invariant) or [None]
            if not all(getattr(leaf, "shape", None) for leaf in leaves):
                refused = "scale_invariant", _INVARIANCE, scale_invariant
                raise TypeError(arguments.refusal(*refused))
        self.scale_invariant = scale_invariant
        self.verbose = arguments.choice("verbose", verbose, (0, 1, 2))

    def _start_anew(self):
        super()._start_anew()
        self._conditions: RunConditions | None = None
        self._measured_invariance: bool | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        check = functools.partial(
            arguments.integer, optional=True, remedy="the run has no more"
        )
        if epochs and not self._epoch:
            check("window", self.window, most=epochs)
        if epochs and steps and not self._steps:
            check("window_steps", self.window_steps, most=epochs * steps)
        given = self.scale_invariant
        if not isinstance(given, _ANSWER) and self._model_seen.built:
            try:
                self._measure_invariance(given)
            except Exception as error:
                remedy = "the model cannot be called on it"
                raise arguments.wrong(
                    "scale_invariant", _INVARIANCE, given, remedy
                ) from error

    def on_train_end(self, logs: Logs = None) -> None:
        report = self.report
        if self._summaries is not None and report is not None:
            in_steps = self.update_freq != "epoch"
            place = self._steps if in_steps else self._epoch
            self._summaries.write_report(report, place)
        super().on_train_end(logs)
        is_shown = self.verbose and report is not None
        if is_shown and backend.writes_files(self._model_seen):
            print(report)

    @property
    def report(self) -> ScalingReport | None:
        if not len(self.series):
            return None
        if self._model_seen is not None:
            with backend.with_values(self._model_seen):
                self._conditions = self._run_conditions()
        if self._conditions is None:
            # From a saved state; they are not known before `fit`.
            return None
        return scaling_report(
            self.series,
            self._conditions,
            batch_size=self.batch_size,
            closeness=self.closeness,
            kappas=self.kappas,
            window=self.window,
            window_steps=self.window_steps,
            level=self.level,
            preconditioned=self._judges_norm(self._conditions),
            epochs=self._epoch,
        )

    def _judges_norm(self, conditions):
        """Whether the N/G of the verdict is that in the optimizer's norm."""
        return (
            conditions.rule == "square_root"
            and conditions.optimizer.second_moments is not None
        )

    def _run_conditions(self):
        model = self._model_seen
        conditions = conditions_of(model.optimizer, self.rule)
        decayed = backend.decayed_variables(model)
        regularized = backend.has_regularizer(model)
        reasons = list(conditions.other_reasons)
        adaptive, invariant = conditions.adaptive, self._measured_invariance
        if isinstance(self.scale_invariant, bool):
            invariant = self.scale_invariant
        if adaptive is None:
            if regularized:
                reasons.append("regularizer")
            if conditions.weight_decay and not decayed:
                reasons.append("none_decayed")
        elif self._judges_norm(conditions) and model.optimizer.built:
            weights = backend.gradient_weights(model)
            ratio = backend.epsilon_ratio(weights, model.optimizer)
            adaptive = dataclasses.replace(adaptive, epsilon_ratio=ratio)
        return dataclasses.replace(
            conditions,
            weight_decay=conditions.weight_decay if decayed else 0.0,
            all_weights_decayed=len(decayed) == len(model.trainable_variables),
            scale_invariant=False if regularized else invariant,
            other_reasons=tuple(reasons),
            adaptive=adaptive,
        )

    def _look_at_batch(self, batch):
        super()._look_at_batch(batch)
        given = self.scale_invariant
        rule = conditions_of(self._model_seen.optimizer, self.rule).rule
        if self._measured_invariance is None and rule == "linear":
            if given is None:
                batch = backend.first_rows(batch, _ROWS)
                given, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            if not isinstance(given, bool):
                # What a model does with other inputs than a batch is not
                # known, and training must not end because of it.
                with contextlib.suppress(Exception):
                    self._measure_invariance(given)

    def _measure_invariance(self, inputs):
        weights = self._model_seen.trainable_variables
        if not all(np.isfinite(ops.convert_to_numpy(v)).all() for v in weights):
            return
        model, data = self._model_seen, self._epoch_size.data
        with backend.python_state_kept(model, not data.is_read_in_python):
            self._measured_invariance = is_scale_invariant(model, inputs)

    def _logs(self):
        report = self.report
        verdict = dict.fromkeys(LOG_KEYS, math.nan)
        return super()._logs() | (report.to_logs() if report else verdict)

    def _write_point(self, place):
        self._summaries.write_scalars(self.report, place)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "scale_invariant": self._measured_invariance
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._measured_invariance = state.get("scale_invariant")
