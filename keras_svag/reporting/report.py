"""What a training run says about its scaling rule."""

import dataclasses
import functools
import heapq
import math
from typing import Any

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate, finite_or_none
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.noise.series import NoiseSeries
from keras_svag.reporting.blocks import Block, Headline, Items, Line, Table
from keras_svag.reporting.html import course_svg
from keras_svag.reporting.markdown import interval, number
from keras_svag.scaling.verdict import ScalingVerdict, scaling_verdict

LOG_KEYS = (
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_high",
    "noise_to_signal_low",
    "noise_to_signal_high",
)

# A learning rate that changes every few epochs would fill a page.
_MOST_EARLIER = 3
_FEWEST_OBSERVATIONS = 8
_POINTS_OF_PICTURE = 24
# Standard errors by which the normal quantile of 80% lies above the mean.
_POWER = 0.84
_MANY_TIMES = 100


@dataclasses.dataclass(frozen=True)
class ScalingReport:
    """How far a scaling rule can carry a run, and from which epochs.

    Attributes:
        verdict: `ScalingVerdict`, with the `NoiseEstimate` of the window.
        first_epoch, last_epoch: The window, counted from 1.
        weight_sq_norm: R, mean over the window.
        every: Training steps per observation in the window; NaN if it has
            fewer than two.
        earlier: Reports on the earlier stretches of constant learning rate.
        first_step, last_step: The window in training steps, counted from 1,
            if it was given in steps; else None.
        course: The `NoiseSeries` of the whole run, for the picture.
    """

    verdict: ScalingVerdict
    first_epoch: int
    last_epoch: int
    weight_sq_norm: float
    every: float = math.nan
    earlier: "tuple[ScalingReport, ...]" = ()
    first_step: int | None = None
    last_step: int | None = None
    course: NoiseSeries | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @property
    def estimate(self) -> NoiseEstimate:
        """The gradient noise of the window."""
        return self.verdict.estimate

    @property
    def kappa_lines(self) -> list[str]:
        """A line per factor on the batch size."""
        return [
            f"×{kappa:g}: batch {batch}, {self.scaled_name} {scaled}: "
            f"{answer} ({closeness})"
            for kappa, (batch, scaled, answer, closeness) in self._rows.items()
        ]

    @property
    def _rows(self):
        verdict = self.verdict
        if verdict.refusal:
            return {}
        return {
            kappa: (
                f"{kappa * verdict.batch_size:,.0f}",
                verdict.scaled_text(kappa),
                str(answer),
                self.min_closeness_text(kappa),
            )
            for kappa, answer in verdict.multiplier_verdicts.items()
        }

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
        return f"Measured in {window}, {self.estimate.count:,} observations"

    @property
    def _window(self):
        if self.last_step is not None:
            return f"steps {self.first_step:,} to {self.last_step:,}"
        return f"epochs {self.first_epoch} to {self.last_epoch}"

    @property
    def upper_end_line(self) -> str | None:
        """What would likely give N / G an upper end; None where it has one."""
        sign = self.estimate.grad_sq_norm_sign(self.verdict.level)
        if sign != "not told apart from 0" or math.isnan(self.every):
            return None
        times = _times_to_tell_apart(self.estimate, self.verdict.level)
        more = "many more"
        if times <= _MANY_TIMES:
            more = f"about {math.ceil(times):,} times as many"
        remedies = []
        if round(self.every) > 1:
            remedies += [f"every={max(math.floor(self.every / times), 1)}"]
        if self.every < times:
            remedies += ["more steps"]
        return (
            f"An upper end of N/G would likely take {more} observations: "
            + " and ".join(remedies)
        )

    @property
    def blocks(self) -> list[Block]:
        """The whole report, in the order in which it is shown."""
        verdict = self.verdict
        blocks: list[Block] = [Headline(verdict.headline)]
        if not verdict.refusal:
            header = ("batch", self.scaled_name, "verdict", "closeness")
            rows = tuple(self._rows.values())
            blocks += [
                Table(verdict.compared, header, rows, tuple(self.kappa_lines)),
                Line(self.sde_line),
            ]
        blocks += [Line(self.window_line)]
        if self.upper_end_line and not verdict.refusal:
            blocks += [Line(self.upper_end_line)]
        blocks += [Line(note.rstrip(".")) for note in verdict.notes]
        blocks += [Line(f"Before, {report.summary}") for report in self.earlier]
        if verdict.heuristic and not verdict.refusal:
            title = "Only a heuristic, because"
            blocks += [Items(title, verdict.heuristic_reasons)]
        return blocks

    @property
    def summary(self) -> str:
        """The headline with its epochs, for a list of several windows."""
        return f"{self._window}: {self.verdict.headline}"

    def __str__(self):
        return "\n".join(block.to_text() for block in self.blocks)

    def _repr_markdown_(self):
        return "\n\n".join(block.to_markdown() for block in self.blocks)

    def _repr_html_(self):
        blocks = "".join(block.to_html() for block in self.blocks)
        picture = course_svg(self._points_of_picture(), self.verdict.level)
        return f"<div>{blocks}{picture}</div>"

    def _points_of_picture(self):
        """`(training step, NoiseEstimate)` of equal parts of the course."""
        series, verdict = self.course, self.verdict
        if not series:
            return []
        count = min(_POINTS_OF_PICTURE, len(series))
        parts = [
            series[rows[0] : rows[-1] + 1]
            for rows in np.array_split(np.arange(len(series)), count)
        ]
        return [
            (
                int(part["step"][-1]),
                part.estimate(verdict.batch_size, verdict.is_square_root),
            )
            for part in parts
        ]

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: the verdict's, the estimate's, more."""
        values = self.verdict.to_dict() | {
            "first_epoch": self.first_epoch,
            "last_epoch": self.last_epoch,
            "weight_sq_norm": finite_or_none(self.weight_sq_norm),
            "every": finite_or_none(self.every),
            "earlier": [report.to_dict() for report in self.earlier],
            "text": str(self),
        }
        if self.last_step is not None:
            values |= {
                "first_step": self.first_step,
                "last_step": self.last_step,
            }
        return values


def scaling_report(
    series,
    conditions,
    *,
    batch_size,
    closeness=2**0.5,
    kappas=(0.25, 0.5, 2, 4, 8, 16),
    window=None,
    window_steps=None,
    level=0.95,
    preconditioned=False,
    epochs=None,
):
    """Judges a run by the noise of its last epochs.

    The window is the end of the last stretch of constant learning rate: N / G
    depends on the learning rate, so an average over a decay describes neither
    side. Earlier stretches are judged in the same way and listed apart, because
    the rule has to hold in them too. Where the learning rate changes at every
    step, it is averaged over the window.

    Args:
        series: `NoiseSeries` of the run.
        conditions: `RunConditions`; what depends on the window is taken from
            the series.
        batch_size, closeness, kappas, level: As for `scaling_verdict`.
        window: Epochs to average over; a quarter of those trained if None.
        window_steps: Training steps to average over, instead.
        preconditioned: Whether N / G is that in the optimizer's norm.
        epochs: Epochs trained; if None, those that the series has seen.

    Returns:
        A `ScalingReport`.
    """
    if epochs is None:
        epochs = int(series["epoch"][-1])
    size = {"epochs": window or max(1, epochs // 4)}
    if window_steps is not None:
        size = {"steps": window_steps}
    judged = functools.partial(
        _judged,
        conditions=conditions,
        in_steps=window_steps is not None,
        preconditioned=preconditioned,
        batch_size=batch_size,
        closeness=closeness,
        kappas=kappas,
        level=level,
    )
    *before, last = series.stretches()
    return dataclasses.replace(
        judged(last.window(**size)),
        earlier=tuple(judged(s.window(**size)) for s in _longest(before)),
        course=series,
    )


def _longest(stretches):
    long_enough = [s for s in stretches if len(s) >= _FEWEST_OBSERVATIONS]
    places = heapq.nlargest(
        _MOST_EARLIER,
        range(len(long_enough)),
        key=lambda place: len(long_enough[place]),
    )
    return [long_enough[place] for place in sorted(places)]


def _judged(window, conditions, in_steps, preconditioned, **settings):
    steps, rates = window["step"], window["learning_rate"]
    conditions = dataclasses.replace(
        conditions,
        # Of equal rates the mean is exactly theirs.
        learning_rate=float(rates[0] + np.mean(rates - rates[0])),
        constant_rate=window.has_constant_rate,
    )
    if conditions.adaptive is not None:
        conditions = dataclasses.replace(
            conditions,
            adaptive=dataclasses.replace(
                conditions.adaptive,
                second_moment_steps=int(window["iteration"][0]),
            ),
        )
    weight_sq_norm = _mean(window["weight_sq_norm"])
    conditions = conditions.observed(
        weight_sq_norm,
        window["grad_sq_norm"],
        window["example_noise"] / settings["batch_size"],
        settings["closeness"],
    )
    estimate = window.estimate(settings["batch_size"], preconditioned)
    return ScalingReport(
        verdict=scaling_verdict(estimate, conditions, **settings),
        first_epoch=int(window["epoch"][0]),
        last_epoch=int(window["epoch"][-1]),
        weight_sq_norm=weight_sq_norm,
        every=float(steps[-1] - steps[0]) / (len(window) - 1)
        if len(window) > 1
        else math.nan,
        first_step=int(steps[0]) if in_steps else None,
        last_step=int(steps[-1]) if in_steps else None,
    )


def _mean(values):
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _times_to_tell_apart(estimate, level):
    """How many times as many observations tell G apart from 0, likely.

    The standard error of G falls with the root of their number, so that
    (t se / G)² times as many put the present G at the edge, and
    ((t + 0.84) se / G)² times as many tell it apart in four of five cases.
    """
    if not estimate.grad_sq_norm > 0:
        return math.inf
    quantile = student_t_quantile(level, estimate.degrees_of_freedom or 1)
    error = estimate.grad_sq_norm_se / estimate.grad_sq_norm
    return max(((quantile + _POWER) * error) ** 2, 2.0)
