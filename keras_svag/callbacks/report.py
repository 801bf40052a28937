"""What a training run says about its scaling rule."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_svag import arguments
from keras_svag.callbacks.html import report_html
from keras_svag.callbacks.markdown import interval, number
from keras_svag.noise.estimate import NoiseEstimate, finite_or_none
from keras_svag.noise.pooling import pooled
from keras_svag.scaling.bounds import balance
from keras_svag.scaling.conditions import drift_within
from keras_svag.scaling.verdict import (
    ScalingVerdict,
    scaling_verdict,
)

LOG_KEYS = (
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_high",
    "noise_to_signal_low",
    "noise_to_signal_high",
)

# A learning rate that changes every few epochs would fill a page.
_MOST_EARLIER = 3
_COUNTS = (
    "count",
    "batch_size",
    "num_skipped",
    "num_examples",
    "num_examples_used",
    "degrees_of_freedom",
)


@dataclasses.dataclass(frozen=True)
class NoiseEpoch:
    """The noise of an epoch or a part of it, and its learning rate.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        estimate: `NoiseEstimate`, corrected for sampling where it can be.
        step_moments: (G, N) as the steps saw them, not corrected: they are
            what moves the weights. Those of `estimate` for a probe.
        weight_sq_norm: R, squared norm of the decayed weights.
        learning_rate: η of the first step.
        last_learning_rate: η of the last step.
        first_step, last_step: The training steps, counted from 1 over the
            run; None for a probe, and in states saved before they were kept.
        optimizer_steps: Steps that the optimizer had done before those that
            were measured; None in states saved before they were kept.
    """

    epoch: int
    estimate: NoiseEstimate
    step_moments: tuple[float, float]
    weight_sq_norm: float
    learning_rate: float
    last_learning_rate: float
    first_step: int | None = None
    last_step: int | None = None
    optimizer_steps: int | None = None

    @property
    def has_constant_rate(self) -> bool:
        """Whether first and last step had the same learning rate."""
        return math.isclose(
            self.learning_rate, self.last_learning_rate, rel_tol=1e-6
        )

    def continues(self, later: "NoiseEpoch") -> bool:
        """Whether both epochs have one and the same learning rate."""
        return (
            self.has_constant_rate
            and later.has_constant_rate
            and math.isclose(
                self.learning_rate, later.learning_rate, rel_tol=1e-6
            )
        )

    @property
    def may_be_moving(self) -> bool:
        """Whether the learning rate may change at every step."""
        return not self.has_constant_rate or self.first_step == self.last_step

    def to_state(self) -> dict[str, Any]:
        """Plain values for strict JSON; `from_state` is the way back."""
        return vars(self) | {
            "estimate": self.estimate.to_dict(),
            "step_moments": [finite_or_none(m) for m in self.step_moments],
            "weight_sq_norm": finite_or_none(self.weight_sq_norm),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "NoiseEpoch":
        def restored(name, value):
            value = arguments.number(name, value, optional=True)
            return math.nan if value is None else value

        arguments.integer("epoch", state["epoch"])
        for name in ("learning_rate", "last_learning_rate"):
            arguments.number(name, state[name], least=0)
        for name in ("first_step", "last_step", "optimizer_steps"):
            arguments.integer(name, state.get(name), 0, optional=True)
        g, n = state["step_moments"]
        estimate = NoiseEstimate.from_dict(state["estimate"])
        _check_counts(estimate)
        return cls(
            **state
            | {
                "estimate": estimate,
                "step_moments": (restored("G", g), restored("N", n)),
                "weight_sq_norm": restored(
                    "weight_sq_norm", state["weight_sq_norm"]
                ),
            }
        )


def _check_counts(estimate):
    """Refuses what would fail only when the epochs are pooled."""
    for name in _COUNTS:
        arguments.integer(name, getattr(estimate, name), 0, optional=True)
    for layer in (estimate.per_layer or {}).values():
        _check_counts(layer)


def epochs_from_state(state):
    """Batch size and `NoiseEpoch`s of a saved `ScalingRuleCheck`.

    Raises:
        ValueError: If `state` is not what its `state_dict` returns.
    """
    try:
        if not isinstance(state["epochs"], list):
            raise TypeError("the epochs are no list")
        epochs = [NoiseEpoch.from_state(epoch) for epoch in state["epochs"]]
        batch_size = state["batch_size"]
        if any(epoch.estimate.batch_size != batch_size for epoch in epochs):
            raise ValueError("the epochs are of other batch sizes")
        return batch_size, epochs
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"`state` must be what `state_dict` returned, got {state!r:.200}."
        ) from error


def constant_rate_stretches(epochs, in_steps=False):
    """Splits the epochs where the learning rate changes: lists, in order.

    Args:
        epochs: `NoiseEpoch`s in the order of training, at least one.
        in_steps: Whether those between which it changes at every step stay
            together: a single one of them may hold a few steps only.
    """
    stretches = [[epochs[0]]]
    for earlier, later in zip(epochs, epochs[1:], strict=False):
        moving = in_steps and earlier.may_be_moving and later.may_be_moving
        if moving or earlier.continues(later):
            stretches[-1].append(later)
        else:
            stretches.append([later])
    return stretches


def tail(stretch, window, in_steps=False):
    """The last `window` epochs or steps of a stretch, as far as measured."""
    last = stretch[-1]
    if in_steps:
        begin = last.last_step - window
        return [e for e in stretch if e is last or e.first_step > begin]
    return [e for e in stretch if e.epoch > last.epoch - window]


def without_old_layers(epochs, window):
    """The epochs; those before a window of steps hold no layers any more."""
    kept = {
        e.last_step
        for stretch in constant_rate_stretches(epochs, in_steps=True)
        for e in tail(stretch, window, in_steps=True)
    }
    return [
        e
        if e.last_step in kept or e.estimate.per_layer is None
        else dataclasses.replace(
            e, estimate=dataclasses.replace(e.estimate, per_layer=None)
        )
        for e in epochs
    ]


def weighted_mean(values, weights):
    """Mean over the epochs; one without observations does not count."""
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    if not weights.any():
        return np.full(values.shape[1:], math.nan)[()]
    measured = weights > 0
    return np.average(values[measured], axis=0, weights=weights[measured])


@dataclasses.dataclass(frozen=True)
class ScalingReport:
    """How far a scaling rule can carry a run, and from which epochs.

    Attributes:
        verdict: `ScalingVerdict`.
        estimate: `NoiseEstimate` pooled over the window.
        first_epoch, last_epoch: The window, counted from 1.
        num_epochs: Epochs in the window at which noise was measured.
        weight_sq_norm: R, mean over the window.
        earlier: Reports on the earlier stretches of constant learning rate.
        first_step, last_step: The window in training steps, counted from 1,
            if it was given in steps; else None.
        course: The `NoiseEpoch`s of the whole run, for the picture.
    """

    verdict: ScalingVerdict
    estimate: NoiseEstimate
    first_epoch: int
    last_epoch: int
    num_epochs: int
    weight_sq_norm: float
    earlier: "tuple[ScalingReport, ...]" = ()
    first_step: int | None = None
    last_step: int | None = None
    course: tuple[NoiseEpoch, ...] = dataclasses.field(
        default=(), repr=False, compare=False
    )

    @property
    def kappa_lines(self) -> list[str]:
        """A line per factor on the batch size."""
        verdict = self.verdict
        if verdict.refusal:
            return []
        return [
            f"×{kappa:g}: batch {kappa * verdict.batch_size:,.0f}, "
            f"{self.scaled_name} {verdict.scaled_text(kappa)}: {answer} "
            f"({self.min_closeness_text(kappa)})"
            for kappa, answer in verdict.multiplier_verdicts.items()
        ]

    @property
    def scaled_name(self) -> str:
        """What `scaled_text` of the verdict holds, for the head of a table."""
        if self.verdict.is_square_root:
            return self.verdict.optimizer
        return "learning rate"

    def min_closeness_text(self, kappa: float) -> str:
        """How close the two runs can be at most, such as `C at least 2.1`."""
        low, value, high = self.verdict.min_closeness[kappa]
        if math.isinf(low):
            return "C is infinite: the weights diverge"
        point = low if value is None else value
        return f"C at least {number(point)} {interval(low, high)}"

    @property
    def sde_line(self) -> str:
        """Whether the measured run may be close to its SDE."""
        verdict = self.verdict
        needed = f"needs N/G of at least {verdict.min_noise_to_signal:.3g}"
        if math.isinf(verdict.min_noise_to_signal):
            needed = "no N/G is enough at this learning rate and weight decay"
        return (
            f"{verdict.process} within a factor {verdict.closeness:.3g} of its "
            f"SDE: {verdict.sde_verdict} ({needed})"
        )

    @property
    def window_line(self) -> str:
        """The epochs or steps behind the numbers."""
        window = self._window
        if self.last_step is None and self.first_epoch == self.last_epoch:
            window = f"epoch {self.last_epoch}"
        text = f"Measured in {window}, {self.estimate.count:,} observations"
        return text + self._blocks_text

    @property
    def _blocks_text(self):
        """From which blocks the errors are."""
        estimate = self.estimate
        if estimate.blocks:
            length = max(1, round(estimate.count / len(estimate.blocks)))
            text = f" in {len(estimate.blocks)} blocks of {length:,}"
            if estimate.has_few_effective_observations:
                text += ": few effective observations"
            return text
        if estimate.num_examples_used:
            return ": one probe, whose interval holds for its weights only"
        return ""

    @property
    def _window(self):
        if self.last_step is not None:
            return f"steps {self.first_step:,} to {self.last_step:,}"
        return f"epochs {self.first_epoch} to {self.last_epoch}"

    def __str__(self):
        verdict = self.verdict
        lines = [verdict.headline]
        if not verdict.refusal:
            lines += [f"  {verdict.compared}:"]
            lines += [f"  {line}" for line in self.kappa_lines]
            lines += [f"  {self.sde_line}"]
        lines += [f"  {self.window_line}"]
        lines += [f"  {note.rstrip('.')}" for note in verdict.notes]
        lines += [f"  Before, {report.summary}" for report in self.earlier]
        if verdict.heuristic and not verdict.refusal:
            lines += ["  Only a heuristic, because"]
            lines += [f"  - {reason}" for reason in verdict.heuristic_reasons]
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The headline with its epochs, for a list of several windows."""
        return f"{self._window}: {self.verdict.headline}"

    def to_logs(self) -> dict[str, float]:
        """What loggers get: always the same keys, NaN where there is none.

        `max_batch_size_low` is the largest batch that is not ruled out, all
        above `max_batch_size_high`, which may be infinite, are ruled out.
        """
        verdict = self.verdict
        sizes = (
            verdict.max_batch_size,
            verdict.not_ruled_out_up_to,
            verdict.ruled_out_beyond,
        )
        values: tuple[float | None, ...] = (*sizes, *verdict.interval)
        if verdict.refusal:
            values = (None, None, None, *verdict.interval)
        return {
            key: math.nan if value is None else float(value)
            for key, value in zip(LOG_KEYS, values, strict=True)
        }

    def _repr_html_(self):
        return report_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: the verdict's, the estimate's, more."""
        return (
            self.verdict.to_dict()
            | {
                "gradient_noise": self.estimate.to_dict(),
                "first_epoch": self.first_epoch,
                "last_epoch": self.last_epoch,
                "num_epochs": self.num_epochs,
                "weight_sq_norm": finite_or_none(self.weight_sq_norm),
                "earlier": [report.to_dict() for report in self.earlier],
                "text": str(self),
            }
            | (
                {}
                if self.last_step is None
                else {
                    "first_step": self.first_step,
                    "last_step": self.last_step,
                }
            )
        )


def scaling_report(
    epochs,
    conditions,
    *,
    batch_size,
    closeness=2**0.5,
    kappas=(2, 4, 8, 16),
    window=None,
    in_steps=False,
):
    """Judges a run by the noise of its last epochs.

    The window is the longest tail of the run with one learning rate, up to
    `window` epochs: N / G depends on the learning rate, so an average over
    a decay describes neither side. Earlier stretches of constant learning rate
    are judged in the same way and listed apart, because the rule has to hold
    in them too.

    Args:
        epochs: `NoiseEpoch`s in the order of training, at least one.
        conditions: `RunConditions`; learning rate and balance are taken from
            the epochs.
        batch_size, closeness, kappas: As for `scaling_verdict`.
        window: Epochs to average over; a quarter of those trained if None.
        in_steps: Whether `window` counts training steps instead. A learning
            rate that changes at every step is then averaged over the window.

    Returns:
        A `ScalingReport`.
    """
    epochs = tuple(epochs)
    window = window or max(1, epochs[-1].epoch // 4)
    settings = {
        "batch_size": batch_size,
        "closeness": closeness,
        "kappas": kappas,
    }
    *before, last = constant_rate_stretches(epochs, in_steps)
    longest = sorted(before, key=len)[-_MOST_EARLIER:]
    earlier = tuple(
        _judged(tail(stretch, window, in_steps), conditions, settings, in_steps)
        for stretch in before
        if len(stretch) > 1 and stretch in longest
    )
    last = tail(last, window, in_steps)
    report = _judged(last, conditions, settings, in_steps)
    return dataclasses.replace(report, earlier=earlier, course=epochs)


def _drift(epochs):
    """What moves from one half of the window to the other; None if it is one.

    The balance does not tell: of SGD it is an identity in R.
    """
    measured = [epoch.estimate for epoch in epochs if epoch.estimate.count]
    middle = len(measured) // 2
    if not middle:
        return None
    return drift_within(pooled(measured[:middle]), pooled(measured[middle:]))


def _judged(epochs, conditions, settings, in_steps):
    weights = [epoch.estimate.count for epoch in epochs]
    weight_sq_norm = weighted_mean([e.weight_sq_norm for e in epochs], weights)
    conditions = dataclasses.replace(
        conditions,
        learning_rate=(epochs[0].learning_rate + epochs[-1].last_learning_rate)
        / 2,
        constant_rate=all(epochs[0].continues(epoch) for epoch in epochs),
    )
    if conditions.adaptive is not None:
        conditions = dataclasses.replace(
            conditions,
            adaptive=dataclasses.replace(
                conditions.adaptive,
                second_moment_steps=epochs[0].optimizer_steps,
            ),
        )
    if conditions.balance_is_defined:
        moments = weighted_mean([e.step_moments for e in epochs], weights)
        conditions = dataclasses.replace(
            conditions,
            balance=balance(
                conditions.optimizer,
                weight_sq_norm,
                *moments,
                conditions.learning_rate,
                conditions.weight_decay,
                conditions.ell,
            ),
            drift=_drift(epochs),
        )
    estimate = pooled(epoch.estimate for epoch in epochs)
    return ScalingReport(
        verdict=scaling_verdict(estimate, conditions, **settings),
        estimate=estimate,
        first_epoch=epochs[0].epoch,
        last_epoch=epochs[-1].epoch,
        num_epochs=len({epoch.epoch for epoch in epochs}),
        weight_sq_norm=float(weight_sq_norm),
        first_step=epochs[0].first_step if in_steps else None,
        last_step=epochs[-1].last_step if in_steps else None,
    )
