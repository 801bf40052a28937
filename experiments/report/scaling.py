"""How far does linear scaling go? Runs that differ in batch size."""

import dataclasses
import math

import numpy as np
from matplotlib.ticker import NullLocator

from experiments.report import sections, seeds
from experiments.report.comparison import Comparison, comparisons, has_numbers
from experiments.report.figures import (
    ACCURACY,
    COLOURS,
    error_bar,
    line_style,
    make_logarithmic,
    saved_figure,
)
from keras_svag.callbacks.markdown import (
    interval,
    number,
    percent_with_error,
    table,
    with_error,
)
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.bounds import min_noise_to_signal
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.conditions import linear_scaling_refusal

# The test error at which a batch size counts as too large, over the best.
BREAKING_FACTOR = 1.2


def scaling_comparisons(runs):
    """Comparisons of batch size with the learning rate in proportion."""
    keys = ("batch_size", "learning_rate")

    def batch_size(run):
        return run.config["batch_size"] if has_numbers(run, *keys) else None

    def rate_per_example(run):
        rate = run.config["learning_rate"] / run.config["batch_size"]
        # Rates are decimal fractions: products of them round.
        return f"{rate:.6g}"

    return comparisons(runs, batch_size, set(keys), rate_per_example)


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What the runs of one batch size have shown.

    Attributes:
        batch_size: B.
        learning_rate: η at B.
        test_error: `SeedMean`; a run that diverged counts as 1.
        num_diverged: Runs that stopped at a loss that was not finite.
        estimate: `NoiseEstimate` pooled over the seeds, or None.
        heuristic_reasons: Why the theorem may not apply, a phrase each.
        predicted: `(low, point, high)` of κ_max·B, seen from this batch size:
            its 95% interval, and None for a point without N/G; or None.
        closeness: `Closeness` to the smallest batch size, or None.
        outcome: "held", "failed", "broke earlier", "not tested", or None for a
            batch size from which there is no prediction to test.
    """

    batch_size: int
    learning_rate: float
    test_error: seeds.SeedMean
    num_diverged: int
    estimate: NoiseEstimate | None
    heuristic_reasons: tuple[str, ...]
    predicted: tuple[float, float | None, float] | None
    closeness: Closeness | None
    outcome: str | None = None

    @property
    def noise_to_signal(self):
        """N/G with its 95% interval; NaN where it is not measured."""
        if self.estimate is None:
            return (math.nan,) * 3
        is_positive = self.estimate.grad_sq_norm > 0
        point = self.estimate.noise_to_signal if is_positive else math.nan
        return point, *self.estimate.interval()


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """What runs of several batch sizes say about the linear scaling rule.

    Attributes:
        comparison: The runs, by batch size.
        batches: `BatchSize`s, increasing.
        target: C.
        threshold: 1 / (C² - 1), the N/G below which SGD leaves its SDE.
        best: The `BatchSize` of least test error.
        last_good: The largest batch size before the break, an integer.
        breaks_at: The first one above the best's whose test error is more
            than `BREAKING_FACTOR` times the best, or None.
        refusal: Why the rule is not one for the optimizer, or None.
    """

    comparison: Comparison
    batches: tuple[BatchSize, ...]
    target: float
    threshold: float
    best: BatchSize
    last_good: int
    breaks_at: int | None
    refusal: str | None = None


def scaling_study(comparison):
    """Evaluates runs whose learning rate is in proportion to the batch size.

    A batch size predicts that the rule breaks at κ_max(q)·B or before, with
    the 95% interval of q = N/G there. The prediction

    - *failed* if a batch size above the interval still had a test error of at
      most `BREAKING_FACTOR` times the best;
    - is called *broke earlier* if the first with a larger one lies at or below
      the interval, which a necessary condition allows and does not foresee;
    - is *not tested* if no batch size lies above the interval;
    - *held* otherwise: the rule broke where the interval says.

    A batch size at or past the break predicts nothing.

    Args:
        comparison: `Comparison` of at least two batch sizes; runs that
            diverged included.

    Returns:
        A `ScalingStudy`.
    """
    groups = list(comparison.groups.values())
    first_config = groups[0][0].config
    target = first_config.get("lsr.closeness", 2**0.5)
    batches = [_batch_size(runs, groups[0], target) for runs in groups]
    best = min(batches, key=lambda batch: batch.test_error.value)
    limit = BREAKING_FACTOR * best.test_error.value
    too_large = [
        batch.batch_size
        for batch in batches
        if batch.batch_size > best.batch_size and batch.test_error.value > limit
    ]
    breaks_at = too_large[0] if too_large else None
    last_good = max(
        batch.batch_size
        for batch in batches
        if breaks_at is None or batch.batch_size < breaks_at
    )
    return ScalingStudy(
        comparison,
        tuple(
            dataclasses.replace(
                batch,
                outcome=_outcome(batch, batches, limit, last_good, breaks_at),
            )
            for batch in batches
        ),
        target,
        min_noise_to_signal(target),
        best,
        last_good,
        breaks_at,
        linear_scaling_refusal(first_config["optimizer"]),
    )


def _batch_size(runs, smallest, target):
    config = runs[0].config
    size, rate = config["batch_size"], config["learning_rate"]
    windows = _windows(runs)
    estimate = seeds.pooled_noise(windows)
    if estimate:
        rate = windows[0].learning_rate
    verdict = seeds.noise_verdict(windows, config, target)
    predicted = None
    if verdict and not linear_scaling_refusal(config["optimizer"]):
        predicted = (
            verdict.not_ruled_out_up_to,
            verdict.max_batch_size,
            verdict.ruled_out_beyond,
        )
    closeness = None
    if runs is not smallest:
        closeness = seeds.closeness_over_seeds(
            seeds.equilibrium_means(_windows(smallest)),
            seeds.equilibrium_means(windows),
            size / smallest[0].config["batch_size"],
        )
    return BatchSize(
        size,
        rate,
        seeds.seed_mean(
            [1.0 if run.diverged else 1 - run.accuracy for run in runs]
        ),
        sum(run.diverged for run in runs),
        estimate,
        seeds.heuristic_reasons(windows),
        predicted,
        closeness,
    )


def _windows(runs):
    return [run.window_before_decay for run in runs if not run.diverged]


def _outcome(batch, batches, limit, last_good, breaks_at):
    if batch.predicted is None or batch.batch_size > last_good:
        return None
    low, _, high = batch.predicted
    beyond = [other for other in batches if other.batch_size > high]
    if any(other.test_error.value <= limit for other in beyond):
        return "failed"
    if breaks_at is not None and breaks_at <= low:
        return "broke earlier"
    return "held" if beyond else "not tested"


def scaling_section(study):
    """`Section` of a `ScalingStudy`."""
    best = study.best
    observed = (
        f"The least test error, {number(best.test_error.value)}, is that of "
        f"B = {best.batch_size:,}. "
    )
    if study.breaks_at:
        observed += (
            f"It is first exceeded by more than {BREAKING_FACTOR - 1:.0%} of "
            f"its value at **B = {study.breaks_at:,}**; "
            f"{study.last_good:,} is the largest batch size before."
        )
    else:
        observed += (
            f"No larger batch size up to {study.last_good:,} exceeds it by "
            f"more than {BREAKING_FACTOR - 1:.0%} of its value: no break was "
            "observed."
        )
    reasons = sections.reasons_text(
        reason for b in study.batches for reason in b.heuristic_reasons
    )
    paragraphs = [
        _prediction(study),
        f"{observed} {_equilibria(study)}".strip(),
        _scaling_table(study),
        "B\\* = κ_max·B is the largest batch size that the condition does not "
        "rule out, seen from B, with the 95% interval that follows from N/G's "
        "(errors of measurement, pooled over seeds). The prediction *failed* "
        "if a batch size above the interval still has a test error at most "
        f"{BREAKING_FACTOR - 1:.0%} above the best; *broke earlier* means that "
        "the first larger error lies at or below the interval, which a "
        "necessary condition allows and does not foresee; *not tested*, that "
        "no batch size lies above it; otherwise the prediction *held*. A "
        "dash: past the break, or not measured. C is the C-closeness to the "
        "smallest batch size over seeds; beyond B\\* it should exceed "
        f"{number(study.target)}.",
        f"The threshold 1/(C² − 1) for SGD's own N/G is "
        f"{number(study.threshold)}.",
    ]
    if reasons:
        paragraphs.append(f"The predictions are only a heuristic: {reasons}.")
    return sections.Section(
        "Linear scaling",
        (*paragraphs, *sections.one_seed(study.comparison)),
        {
            "batch-sizes": sections.Figure(
                "G, N, N/G and test accuracy against the batch size; the "
                "predicted B\\* is that of the smallest batch size.",
                lambda path: save_scaling(path, study),
            )
        },
        sections.setting(study.comparison),
    )


def _prediction(study):
    first = study.batches[0]
    if study.refusal:
        return study.refusal
    if first.predicted is None:
        return "No N/G was measured at the smallest batch size: no prediction."
    low, point, high = first.predicted
    text = (
        f"Seen from B = {first.batch_size:,}, linear scaling is not ruled out "
        f"up to B = {number(low)}"
    )
    text += (
        f" and ruled out beyond {number(high)}"
        if math.isfinite(high)
        else ", and no larger batch size is ruled out"
    )
    if point is not None:
        text += f" (point estimate B\\* = {number(point)})"
    if first.outcome is None:
        return f"{text}; the smallest batch size is past the break."
    return f"{text}; the prediction {_OUTCOMES[first.outcome]}."


def _equilibria(study):
    """What R, G and N themselves say beyond the predicted interval."""
    first = study.batches[0]
    if first.predicted is None:
        return ""
    beyond = [
        batch.closeness
        for batch in study.batches
        if batch.closeness and batch.batch_size > first.predicted[2]
    ]
    if not beyond:
        return ""
    far = sum(closeness.value > study.target for closeness in beyond)
    return (
        "Beyond the interval the condition says that R, G and N are not "
        f"C-close to those at B = {first.batch_size:,}: measured so at {far} "
        f"of {len(beyond)} batch sizes."
    )


_OUTCOMES = {
    "held": "**held**",
    "failed": "**failed**",
    "broke earlier": "**did not foresee the break**, which came earlier; being "
    "only necessary, the condition allows that",
    "not tested": "**was not tested**: no batch size lies beyond",
}


def _scaling_table(study):
    return table(
        ["B", "η", "test error", "G", "N", "N/G", "B\\*", "prediction", "C"],
        [_scaling_row(batch) for batch in study.batches],
    )


def _scaling_row(batch):
    estimate = batch.estimate
    error = percent_with_error(
        batch.test_error.value, batch.test_error.standard_error
    )
    if batch.num_diverged:
        error += f" ({batch.num_diverged} diverged)"
    moments = ["–", "–", "–"]
    if estimate:
        point, low, high = batch.noise_to_signal
        moments = [
            with_error(estimate.grad_sq_norm, estimate.grad_sq_norm_se),
            with_error(estimate.noise_trace, estimate.noise_trace_se),
            f"{number(point)} {interval(low, high)}",
        ]
    predicted = "–"
    if batch.predicted:
        low, point, high = batch.predicted
        predicted = f"{number(point)} {interval(low, high)}"
    closeness = "–"
    if batch.closeness:
        closeness = number(batch.closeness.value)
        if batch.test_error.count > 1:
            ends = interval(batch.closeness.low, batch.closeness.high)
            closeness = f"{closeness} {ends}"
    return [
        f"{batch.batch_size:,}",
        number(batch.learning_rate),
        error,
        *moments,
        predicted,
        batch.outcome or "–",
        closeness,
    ]


def save_scaling(path, study):
    """G and N, N/G, and test accuracy against the batch size.

    Args:
        path: PNG file.
        study: `ScalingStudy`.
    """
    with saved_figure(path, 10) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        _draw_moments(panels[0], study)
        _draw_ratio(panels[1], study)
        _draw_accuracy(panels[2], study)
        sizes = [batch.batch_size for batch in study.batches]
        panels[2].set_xlabel(
            "batch size B (examples), learning rate in proportion"
        )
        panels[2].set_xticks(sizes, [f"{size:,}" for size in sizes])
        panels[2].xaxis.set_minor_locator(NullLocator())
        for axes in panels:
            # Error bars without an upper end would stretch the axis.
            axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)


def _draw_moments(axes, study):
    measured = [batch for batch in study.batches if batch.estimate]
    sizes = [batch.batch_size for batch in measured]
    for index, (name, label) in enumerate(
        (("grad_sq_norm", "G = |∇L|²"), ("noise_trace", "N = Tr Σ at B")), 1
    ):
        values = [getattr(batch.estimate, name) for batch in measured]
        errors = [getattr(batch.estimate, f"{name}_se") for batch in measured]
        axes.errorbar(
            sizes,
            [value if value > 0 else math.nan for value in values],
            [error_bar(error) for error in errors],
            **line_style(index),
            capsize=4,
            label=f"{label} (± standard error)",
        )
    axes.set_xscale("log")
    make_logarithmic(axes)
    axes.set_ylabel("squared gradient units")
    axes.legend()


def _draw_ratio(axes, study):
    axes.set_xscale("log")
    shown = [
        (batch.batch_size, low if math.isnan(point) else point, low, high)
        for batch in study.batches
        for point, low, high in [batch.noise_to_signal]
        # Of an interval [0, ∞) there is nothing to show.
        if point > 0 or low > 0
    ]
    if shown:
        sizes, values, lows, highs = np.transpose(shown)
        unbounded = np.isinf(highs)
        axes.errorbar(
            sizes,
            values,
            [
                # A lower end of 0 lies below any logarithmic axis.
                np.minimum(values - lows, 0.9 * values),
                np.where(unbounded, values, highs - values),
            ],
            lolims=unbounded,
            **line_style(2),
            capsize=4,
            label="N/G (95% interval; arrow: no upper end)"
            if unbounded.any()
            else "N/G (95% interval)",
        )
    axes.axhline(
        study.threshold,
        color=COLOURS[4],
        linestyle="--",
        label=f"threshold 1/(C² − 1) = {study.threshold:.3g}",
    )
    make_logarithmic(axes)
    axes.set_ylabel("N/G (dimensionless)")
    axes.legend()


def _draw_accuracy(axes, study):
    trained = [batch for batch in study.batches if not batch.num_diverged]
    axes.set_xscale("log")
    axes.errorbar(
        [batch.batch_size for batch in trained],
        [100 * (1 - batch.test_error.value) for batch in trained],
        [100 * error_bar(batch.test_error.standard_error) for batch in trained],
        **line_style(3),
        capsize=4,
        label="mean over seeds ± standard error",
    )
    diverged = [b.batch_size for b in study.batches if b.num_diverged]
    if diverged:
        axes.plot(
            diverged,
            [0.03] * len(diverged),
            "X",
            color=COLOURS[0],
            markersize=9,
            transform=axes.get_xaxis_transform(),
            label="diverged, at least one seed",
        )
    axes.axhline(
        100 * (1 - BREAKING_FACTOR * study.best.test_error.value),
        color=COLOURS[0],
        linestyle=":",
        label="test error 20% above the best",
    )
    baseline = study.batches[0]
    if baseline.predicted:
        low, point, high = baseline.predicted
        axes.axvspan(
            low,
            # An open end goes to the edge of the axis.
            min(high, 1e3 * study.batches[-1].batch_size),
            color=COLOURS[5],
            alpha=0.3,
            linewidth=0,
            label=f"predicted B* from B = {baseline.batch_size:,} "
            "(95% interval)",
        )
        if point is not None:
            axes.axvline(point, color=COLOURS[5], linestyle="-.")
    if study.breaks_at:
        axes.axvline(
            study.breaks_at,
            color=COLOURS[4],
            linestyle="--",
            label=f"observed break at B = {study.breaks_at:,}",
        )
    axes.set_ylabel(ACCURACY)
    # Outside, lest it hide a break.
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )


LINEAR_SCALING = sections.StudyKind(
    "scaling",
    "batch_size with learning_rate in proportion",
    scaling_comparisons,
    lambda comparison: scaling_section(scaling_study(comparison)),
    counts_diverged="in a study of linear scaling, with a test error of 1",
)
