"""What a training run says about its scaling rule."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_svag import arguments
from keras_svag.branching.branches import branch_test
from keras_svag.branching.result import BranchTest
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.numerals import whole
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.noise.saving import SavedFields
from keras_svag.reporting import html, layout, picture
from keras_svag.reporting.blocks import Block
from keras_svag.scaling.prediction import ClosenessPrediction
from keras_svag.scaling.verdict import (
    ScaledRun,
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
_FEWEST_OBSERVATIONS = 8
# Standard errors by which the normal quantile of 80% lies above the mean.
_POWER = 0.84
_MANY_TIMES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class ScalingReport(SavedFields):
    """How far a scaling rule can carry a run, and from which epochs.

    ```python
    report = check.report
    print(report)
    report.at(256).verdict                # "ruled out", for example
    report.at(8, level=0.99)              # fewer examples a batch
    report.to_frame()
    report.save_html("report.html")
    ```

    `str` is the whole report on lines of at most 80 characters, `repr` its
    answer. A notebook shows it with its picture, where matplotlib is there.

    Attributes:
        verdict: `ScalingVerdict`, with the `NoiseEstimate` of the window.
        first_epoch, last_epoch: The window, counted from 1.
        weight_sq_norm: R, mean over the window.
        every: Training steps per observation in the window; NaN if it has
            fewer than two.
        earlier: Reports on the earlier stretches of constant learning rate.
        first_step, last_step: The window in training steps, counted from 1,
            if it was given in steps; else None.
        branches: `BranchTest` of each κ that was tried.
        prediction: `ClosenessPrediction` to show beside them, or None.
    """

    verdict: ScalingVerdict
    first_epoch: int
    last_epoch: int
    weight_sq_norm: float
    every: float = math.nan
    earlier: "tuple[ScalingReport, ...]" = ()
    first_step: int | None = None
    last_step: int | None = None
    branches: tuple[BranchTest, ...] = ()
    prediction: ClosenessPrediction | None = None

    @property
    def estimate(self) -> NoiseEstimate:
        """The gradient noise of the window."""
        return self.verdict.estimate

    def at(
        self,
        batch_size: int,
        *,
        level: float | None = None,
        closeness: float | None = None,
    ) -> ScaledRun:
        """What is known of the same training at another batch size.

        See `ScalingVerdict.at`; the rule has to hold in `earlier` too.
        """
        return self.verdict.at(batch_size, level=level, closeness=closeness)

    def allows(self, batch_size: int) -> bool | None:
        """Whether a batch size is allowed: see `ScaledRun.allowed`."""
        return self.verdict.allows(batch_size)

    def branch_test(
        self,
        model: Any,
        data: Any,
        kappa: float,
        *,
        prediction: ClosenessPrediction | None = None,
        **arguments_of_test: Any,
    ) -> "ScalingReport":
        """The report with a test of κ by short trainings of the model.

        ```python
        report = check.report
        for kappa in (2, 4):
            report = report.branch_test(model, (x, y), kappa, examples=20_000)
        report.plot()
        ```

        Bound, prediction and what was seen are then one table and one picture.

        Args:
            model, data, kappa: As for `keras_svag.branch_test`.
            prediction: `ClosenessPrediction` to show beside it; None for that
                of this report.
            **arguments_of_test: Others of `keras_svag.branch_test`;
                `batch_size` and `rule` are those of the verdict if left out.

        Returns:
            Another `ScalingReport`; a κ that was tried before has the new
            test.

        Raises:
            TypeError, ValueError: As `keras_svag.branch_test` does.
        """
        arguments.instance(
            "prediction",
            prediction,
            (ClosenessPrediction, type(None)),
            "a ClosenessPrediction or None",
        )
        verdict = self.verdict
        given = {"batch_size": verdict.batch_size, "rule": verdict.rule}
        test = branch_test(model, data, kappa, **given | arguments_of_test)
        others = [one for one in self.branches if one.kappa != kappa]
        return dataclasses.replace(
            self,
            branches=tuple(sorted([*others, test], key=lambda t: t.kappa)),
            prediction=prediction or self.prediction,
        )

    @property
    def stretches(self) -> "tuple[ScalingReport, ...]":
        """The reports on all stretches, in the order of time; this is last."""
        return (*self.earlier, self)

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
        return list(layout.blocks(self))

    @property
    def unit(self) -> str:
        """What the window is given in: `"epochs"` or `"steps"`."""
        return "epochs" if self.last_step is None else "steps"

    @property
    def window(self) -> str:
        """The epochs or steps behind the numbers, such as `31 to 40`."""
        first, last = self.first_epoch, self.last_epoch
        if self.first_step is not None and self.last_step is not None:
            first, last = self.first_step, self.last_step
        return f"{whole(first)} to {whole(last)}"

    def __str__(self):
        return "\n".join(block.to_text() for block in self.blocks)

    def __repr__(self):
        window = f"{self.unit} {self.window}"
        return f"<ScalingReport of {window}: {self.verdict.headline}>"

    def _repr_markdown_(self):
        return "\n\n".join(block.to_markdown() for block in self.blocks)

    def _repr_html_(self):
        blocks = "".join(block.to_html() for block in self.blocks)
        return f"<div>{blocks}{picture.as_svg(self)}</div>"

    def plot(self, ax: Any = None) -> Any:
        """The least C against κ, with its interval and the C asked for.

        The C that was predicted, and that of `branch_test`, if they are there.

        It needs matplotlib.

        Args:
            ax: Matplotlib axes to draw into; None for a new figure.

        Returns:
            The axes.

        Raises:
            ValueError: If there is no verdict.
        """
        if self.verdict.refusal:
            raise ValueError(
                f"There is no verdict to draw. {self.verdict.refusal}"
            )
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(layout="constrained")
        picture.draw(self, ax)
        return ax

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
        # None becomes NaN.
        values = np.array([*sizes, *verdict.interval], float)
        if verdict.refusal:
            values[:3] = math.nan
        return dict(zip(LOG_KEYS, values.tolist(), strict=True))

    def to_frame(self) -> Any:
        """A pandas frame with a row for each κ of each stretch.

        The stretches are told apart by `first_epoch` and `last_epoch`; the
        last one is what `verdict` is about.
        """
        import pandas

        return pandas.DataFrame(
            {
                "first_epoch": report.first_epoch,
                "last_epoch": report.last_epoch,
                "kappa": run.kappa,
                "batch_size": run.batch_size,
                **(run.hyperparameters or {}),
                "verdict": str(run.verdict),
                "min_closeness": run.min_closeness.value,
                "min_closeness_low": run.min_closeness.low,
                "min_closeness_high": run.min_closeness.high,
                "heuristic": report.verdict.heuristic,
                "at_equilibrium": report.verdict.at_equilibrium,
                **report.estimate.diagnostics,
            }
            for report in self.stretches
            for run in report.verdict.runs.values()
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: the verdict's, the estimate's, more.

        `from_dict` is the way back.
        """
        fields = super().to_dict()
        return fields.pop("verdict") | fields | {"text": str(self)}

    @classmethod
    @arguments.reader
    def from_dict(cls, saved: Mapping[str, Any]) -> "ScalingReport":
        """The report of which `to_dict` is the dictionary.

        Raises:
            ValueError: If `saved` is not of that form.
        """
        return super().from_dict({**saved, "verdict": saved})

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one page with the report, and its picture within it."""
        text = html.page(self.verdict.headline, self._repr_html_())
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def scaling_report(
    series,
    conditions,
    *,
    window=None,
    window_steps=None,
    epochs=None,
    **settings,
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
        window: Epochs to average over; a quarter of those trained if None.
        window_steps: Training steps to average over, instead.
        epochs: Epochs trained; if None, those that the series has seen.
        **settings: `batch_size`, B of the largest batches of the series (a
            stretch of smaller ones is judged at theirs); `preconditioned`,
            whether N / G is that in the optimizer's norm; and `closeness`,
            `kappas` and `level`, as for `scaling_verdict`.

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
        largest_rows=series.largest_rows,
        **settings,
    )
    *before, last = series.stretches()
    return dataclasses.replace(
        judged(last.window(**size)),
        earlier=tuple(judged(s.window(**size)) for s in _longest(before)),
    )


def _longest(stretches):
    long_enough = [s for s in stretches if len(s) >= _FEWEST_OBSERVATIONS]
    longest = sorted(long_enough, key=len, reverse=True)[:_MOST_EARLIER]
    return sorted(longest, key=lambda stretch: stretch["step"][0])


def _judged(
    window,
    conditions,
    in_steps,
    largest_rows,
    batch_size,
    preconditioned=False,
    closeness=2**0.5,
    **settings,
):
    if window.largest_rows:
        batch_size = round(batch_size * window.largest_rows / largest_rows)
    steps, rates = window["step"], window.repeated("learning_rate")
    iterations = window["iteration"]
    conditions = dataclasses.replace(
        conditions,
        # Of equal rates the mean is exactly theirs.
        learning_rate=float(rates[0] + np.mean(rates - rates[0])),
        constant_rate=window.has_constant_rate,
        adaptive=conditions.adaptive
        and dataclasses.replace(
            conditions.adaptive,
            second_moment_steps=int(iterations[0]),
            window_steps=int(iterations[-1] - iterations[0]),
        ),
    )
    squares = window.repeated("weight_sq_norm")
    squares = squares[np.isfinite(squares)]
    weight_sq_norm = float(squares.mean()) if len(squares) else math.nan
    conditions = conditions.observed(
        weight_sq_norm,
        window.repeated("grad_sq_norm"),
        window.repeated("example_noise") / batch_size,
        closeness,
    )
    is_lost = np.isnan(window["weight_sq_norm"])
    if np.any(is_lost & np.isnan(window["grad_sq_norm"])):
        others = (*conditions.other_reasons, "weights_not_finite")
        conditions = dataclasses.replace(conditions, other_reasons=others)
    estimate = window.estimate(batch_size, preconditioned)
    return ScalingReport(
        verdict=scaling_verdict(
            estimate, conditions, closeness=closeness, **settings
        ),
        first_epoch=int(window["epoch"][0]),
        last_epoch=int(window["epoch"][-1]),
        weight_sq_norm=weight_sq_norm,
        # A row of several observations has the step of the last.
        every=float(steps[-1] - steps[0]) / window["observations"][1:].sum()
        if len(window) > 1
        else math.nan,
        first_step=int(steps[0]) if in_steps else None,
        last_step=int(steps[-1]) if in_steps else None,
    )


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
