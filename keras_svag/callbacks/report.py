"""What a training run says about the linear scaling rule."""

import dataclasses
import math

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate, finite_or_none
from keras_svag.noise.pooling import pooled
from keras_svag.scaling.bounds import balance
from keras_svag.scaling.verdict import (
    LinearScalingVerdict,
    linear_scaling_verdict,
)

# A learning rate that changes every few epochs would fill a page.
_MOST_EARLIER = 3


@dataclasses.dataclass(frozen=True)
class NoiseEpoch:
    """The noise of one epoch, and the learning rate at which it was measured.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        estimate: `NoiseEstimate`, corrected for sampling where it can be.
        step_moments: (G, N) as the steps saw them, not corrected: they are
            what moves the weights. Those of `estimate` for a probe.
        weight_sq_norm: R, squared norm of the decayed weights.
        learning_rate: η of the first step.
        last_learning_rate: η of the last step.
    """

    epoch: int
    estimate: NoiseEstimate
    step_moments: tuple[float, float]
    weight_sq_norm: float
    learning_rate: float
    last_learning_rate: float

    @property
    def has_constant_rate(self):
        """Whether first and last step had the same learning rate."""
        return math.isclose(
            self.learning_rate, self.last_learning_rate, rel_tol=1e-6
        )

    def continues(self, later):
        """Whether both epochs have one and the same learning rate."""
        return (
            self.has_constant_rate
            and later.has_constant_rate
            and math.isclose(
                self.learning_rate, later.learning_rate, rel_tol=1e-6
            )
        )

    def to_state(self):
        """Plain values for strict JSON; `from_state` is the way back."""
        return vars(self) | {
            "estimate": self.estimate.to_dict(),
            "step_moments": [finite_or_none(m) for m in self.step_moments],
            "weight_sq_norm": finite_or_none(self.weight_sq_norm),
        }

    @classmethod
    def from_state(cls, state):
        def restored(value):
            return math.nan if value is None else value

        return cls(
            **state
            | {
                "estimate": NoiseEstimate.from_dict(state["estimate"]),
                "step_moments": tuple(map(restored, state["step_moments"])),
                "weight_sq_norm": restored(state["weight_sq_norm"]),
            }
        )


def epochs_from_state(state):
    """Batch size and `NoiseEpoch`s of a saved `LinearScalingRuleCheck`.

    Raises:
        ValueError: If `state` is not what its `state_dict` returns.
    """
    try:
        epochs = [NoiseEpoch.from_state(epoch) for epoch in state["epochs"]]
        return state["batch_size"], epochs
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"`state` must be what `state_dict` returned, got {state!r:.200}."
        ) from error


def constant_rate_stretches(epochs):
    """Splits the epochs where the learning rate changes: lists, in order."""
    stretches = [[epochs[0]]]
    for earlier, later in zip(epochs, epochs[1:], strict=False):
        if earlier.continues(later):
            stretches[-1].append(later)
        else:
            stretches.append([later])
    return stretches


def tail(stretch, window):
    """The last `window` epochs of a stretch, as far as they were measured."""
    return [e for e in stretch if e.epoch > stretch[-1].epoch - window]


def weighted_mean(values, weights):
    """Mean over the epochs; one without observations does not count."""
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    if not weights.any():
        return np.full(values.shape[1:], math.nan)[()]
    measured = weights > 0
    return np.average(values[measured], axis=0, weights=weights[measured])


@dataclasses.dataclass(frozen=True)
class LinearScalingReport:
    """How far the linear scaling rule can carry a run, and from which epochs.

    Attributes:
        verdict: `LinearScalingVerdict`.
        estimate: `NoiseEstimate` pooled over the window.
        first_epoch, last_epoch: The window, counted from 1.
        num_epochs: Epochs in the window at which noise was measured.
        weight_sq_norm: R, mean over the window.
        earlier: Reports on the earlier stretches of constant learning rate.
    """

    verdict: LinearScalingVerdict
    estimate: NoiseEstimate
    first_epoch: int
    last_epoch: int
    num_epochs: int
    weight_sq_norm: float
    earlier: "tuple[LinearScalingReport, ...]" = ()

    @property
    def kappa_lines(self):
        """A line per factor on the batch size."""
        verdict = self.verdict
        if verdict.refusal:
            return []
        return [
            f"×{kappa:g}: batch {kappa * verdict.batch_size:,.0f}, learning "
            f"rate {kappa * verdict.learning_rate:g}: {answer}"
            for kappa, answer in verdict.multiplier_verdicts.items()
        ]

    @property
    def sde_line(self):
        """Whether SGD may be close to its SDE."""
        verdict = self.verdict
        needed = f"needs N/G of at least {verdict.min_noise_to_signal:.3g}"
        if math.isinf(verdict.min_noise_to_signal):
            needed = "no N/G is enough at this learning rate and weight decay"
        return (
            f"SGD within a factor {verdict.closeness:.3g} of its SDE: "
            f"{verdict.sde_verdict} ({needed})"
        )

    @property
    def window_line(self):
        """The epochs behind the numbers."""
        if self.first_epoch == self.last_epoch:
            epochs = f"epoch {self.last_epoch}"
        else:
            epochs = f"epochs {self.first_epoch} to {self.last_epoch}"
        return f"Measured in {epochs}, {self.estimate.count:,} observations"

    def __str__(self):
        verdict = self.verdict
        lines = [verdict.headline]
        if not verdict.refusal:
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
    def summary(self):
        """The headline with its epochs, for a list of several windows."""
        return (
            f"epochs {self.first_epoch} to {self.last_epoch}: "
            f"{self.verdict.headline}"
        )

    def to_dict(self):
        """Plain values for strict JSON: the verdict's, the estimate's, more."""
        return self.verdict.to_dict() | {
            "gradient_noise": self.estimate.to_dict(),
            "first_epoch": self.first_epoch,
            "last_epoch": self.last_epoch,
            "num_epochs": self.num_epochs,
            "weight_sq_norm": finite_or_none(self.weight_sq_norm),
            "earlier": [report.to_dict() for report in self.earlier],
            "text": str(self),
        }


def linear_scaling_report(
    epochs,
    conditions,
    *,
    batch_size,
    closeness=2**0.5,
    kappas=(2, 4, 8, 16),
    window=None,
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
        batch_size, closeness, kappas: As for `linear_scaling_verdict`.
        window: Epochs to average over; a quarter of those trained if None.

    Returns:
        A `LinearScalingReport`.
    """
    epochs = tuple(epochs)
    window = window or max(1, epochs[-1].epoch // 4)
    settings = {
        "batch_size": batch_size,
        "closeness": closeness,
        "kappas": kappas,
    }
    *before, last = constant_rate_stretches(epochs)
    longest = sorted(before, key=len)[-_MOST_EARLIER:]
    earlier = tuple(
        _judged(tail(stretch, window), conditions, settings)
        for stretch in before
        if len(stretch) > 1 and stretch in longest
    )
    report = _judged(tail(last, window), conditions, settings)
    return dataclasses.replace(report, earlier=earlier)


def _judged(epochs, conditions, settings):
    weights = [epoch.estimate.count for epoch in epochs]
    weight_sq_norm = weighted_mean([e.weight_sq_norm for e in epochs], weights)
    conditions = dataclasses.replace(
        conditions,
        learning_rate=(epochs[0].learning_rate + epochs[-1].last_learning_rate)
        / 2,
        constant_rate=epochs[-1].has_constant_rate,
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
        )
    estimate = pooled(epoch.estimate for epoch in epochs)
    return LinearScalingReport(
        verdict=linear_scaling_verdict(estimate, conditions, **settings),
        estimate=estimate,
        first_epoch=epochs[0].epoch,
        last_epoch=epochs[-1].epoch,
        num_epochs=len(epochs),
        weight_sq_norm=float(weight_sq_norm),
    )
