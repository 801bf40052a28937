"""How far does linear scaling go? Runs that differ in batch size."""

import dataclasses
import math

import numpy as np
from matplotlib.ticker import NullLocator

from experiments.optimizers import optimizer_kind
from experiments.report import sections, seeds
from experiments.report.comparison import (
    Comparison,
    comparisons,
    has_numbers,
    same_setting,
)
from experiments.report.figures import (
    ACCURACY,
    COLOURS,
    error_bar,
    line_style,
    make_logarithmic,
    saved_figure,
)
from experiments.report.svag import svag_comparisons
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.numerals import (
    interval,
    number,
    percent_with_error,
    with_error,
)
from keras_svag.reporting.markdown import table
from keras_svag.scaling.bounds import min_noise_to_signal
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.optimizers import rule_refusal
from keras_svag.scaling.reasons import Reason

# The test error that is observed beside the theorem, over the best.
GROWN_ERROR = 1.2


@dataclasses.dataclass(frozen=True)
class ScalingComparison(Comparison):
    """Runs of several batch sizes, and those that predict what they show.

    Attributes:
        svag: `Comparison` of ell at one of these learning rates per example,
            everything else being equal, or None.
    """

    svag: Comparison | None = None


def scaling_comparisons(runs):
    """Comparisons of batch size with the learning rate in proportion."""
    keys = ("batch_size", "learning_rate")

    def batch_size(run):
        return run.config["batch_size"] if has_numbers(run, *keys) else None

    found = comparisons(runs, batch_size, set(keys), _rate_per_example)
    if not found:
        return []
    svag = svag_comparisons([run for run in runs if not run.diverged])
    return [
        ScalingComparison(
            *(
                getattr(comparison, f.name)
                for f in dataclasses.fields(Comparison)
            ),
            svag=_of_same_family(comparison, svag),
        )
        for comparison in found
    ]


def _rate_per_example(run):
    rate = run.config["learning_rate"] / run.config["batch_size"]
    # Rates are decimal fractions: products of them round.
    return f"{rate:.6g}"


def _of_same_family(comparison, svag):
    """The first comparison of ell at a fixed noise scale that is the same.

    Pairs of halves and independent ones have the same mean and covariance.
    """
    free = {"batch_size", "learning_rate", "ell", "pairing"}
    first = comparison.runs[0]
    for other in svag:
        run = other.runs[0]
        if (
            has_numbers(run, "batch_size", "learning_rate")
            and same_setting(first, run, free)
            and _rate_per_example(first) == _rate_per_example(run)
        ):
            return other
    return None


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What the runs of one batch size have shown.

    Attributes:
        batch_size: B.
        learning_rate: η at B.
        test_error: `SeedMean`; a run that diverged counts as 1.
        num_diverged: Runs that stopped at a loss that was not finite.
        estimate: `NoiseEstimate` pooled over the seeds, or None.
        reasons: Why the theorem may not apply, a `Reason` each.
        means: `equilibrium_means` of R, G and N.
        bound: `(low, point, high)` of κ_max·B, seen from this batch size: its
            95% interval, and None for a point without N/G; or None.
        closeness: `Closeness` to the smallest batch size, or None.
        min_closeness: `(low, value, high)`, the least C that N/G of the
            smallest batch size allows here; None there, or without it.
        predicted: `(value, low, high)` of C to the smallest batch size, from
            runs of SVAG, or None.
        outcome: Whether no batch size that is ruled out from here was C-close:
            "held", "failed", "undetermined" or "not tested"; None without
            a bound.
    """

    batch_size: int
    learning_rate: float
    test_error: seeds.SeedMean
    num_diverged: int
    estimate: NoiseEstimate | None
    reasons: tuple[Reason, ...]
    means: dict[str, seeds.SeedMean]
    bound: tuple[float, float | None, float] | None
    closeness: Closeness | None = None
    min_closeness: tuple[float, float | None, float] | None = None
    predicted: tuple[float, float, float] | None = None
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
        error_grows_at: The first batch size above the best's whose test error
            is more than `GROWN_ERROR` times the best, or None. An observation:
            the theorem does not speak of it.
        leaves_at: `(value, low, high)`, the predicted batch size at which C to
            the smallest is left, or None.
        refusal: Why the rule is not one for the optimizer, or None.
    """

    comparison: ScalingComparison
    batches: tuple[BatchSize, ...]
    target: float
    threshold: float
    best: BatchSize
    error_grows_at: int | None
    leaves_at: tuple[float, float, float] | None
    refusal: str | None = None


def scaling_study(comparison):
    """Evaluates runs whose learning rate is in proportion to the batch size.

    The condition says of every batch size which larger ones it rules out: they
    cannot be C-close to it in R, G and N. That it

    - *failed* is said if one of them was measured to be: the 95% interval of
      its C, over seeds, lies at or below the C asked for;
    - *held* if each was measured not to be: the interval lies above, or a run
      diverged;
    - is *undetermined* if an interval contains C;
    - is *not tested* if none was measured.

    Args:
        comparison: `ScalingComparison` of at least two batch sizes; runs that
            diverged included.

    Returns:
        A `ScalingStudy`.
    """
    groups = list(comparison.groups.values())
    config = groups[0][0].config
    target = config.get("lsr.closeness", 2**0.5)
    batches = [_batch_size(runs, target) for runs in groups]
    best = min(batches, key=lambda batch: batch.test_error.value)
    grown = [
        batch.batch_size
        for batch in batches
        if batch.batch_size > best.batch_size
        and batch.test_error.value > GROWN_ERROR * best.test_error.value
    ]
    refusal = _refusal(config)
    prediction, unit = None, 1
    if comparison.svag and not refusal:
        prediction = seeds.closeness_prediction(
            comparison.svag.groups, lambda run: run.window_before_decay
        )
        # SVAG with ell at B is SGD at B / ell, on the line of equal noise.
        unit = comparison.svag.runs[0].config["batch_size"]
        unit *= seeds.ell_of(config)
    first = batches[0].batch_size
    return ScalingStudy(
        comparison,
        tuple(
            dataclasses.replace(
                batch,
                outcome=_outcome(batch, batches, target),
                closeness=_closeness(batches[0], batch),
                min_closeness=_min_closeness(groups[0], batch, target),
                predicted=prediction
                and prediction.closeness(batch.batch_size / unit, first / unit),
            )
            for batch in batches
        ),
        target,
        min_noise_to_signal(target),
        best,
        grown[0] if grown else None,
        prediction
        and tuple(
            unit * kappa
            for kappa in prediction.max_batch_multiplier(target, first / unit)
        ),
        refusal,
    )


def _batch_size(runs, target):
    config = runs[0].config
    windows = _windows(runs)
    estimate = seeds.pooled_noise(windows)
    verdict = _verdict(runs, target)
    bound = verdict and (
        verdict.not_ruled_out_up_to,
        verdict.max_batch_size,
        verdict.ruled_out_beyond,
    )
    return BatchSize(
        config["batch_size"],
        windows[0].learning_rate if estimate else config["learning_rate"],
        seeds.seed_mean(
            [1.0 if run.diverged else 1 - run.accuracy for run in runs]
        ),
        sum(run.diverged for run in runs),
        estimate,
        seeds.reasons_of(windows),
        seeds.equilibrium_means(windows),
        bound,
    )


def _verdict(runs, target, kappas=()):
    """`ScalingVerdict` on runs of the same process as these, or None.

    SVAG at η and ell has the identity of SGD at η / ell with G / ell, and so
    has the run at κη: the condition for SGD then speaks of both.
    """
    config = runs[0].config
    if _refusal(config):
        return None
    ell = seeds.ell_of(config)
    windows = [
        window
        and dataclasses.replace(
            window,
            estimate=_with_signal_over(window.estimate, ell),
            learning_rate=window.learning_rate / ell,
        )
        for window in _windows(runs)
    ]
    return seeds.noise_verdict(windows, config | {"ell": 1}, target, kappas)


def _with_signal_over(estimate, ell):
    """The estimate with G / ell in place of G."""
    return dataclasses.replace(
        estimate,
        grad_sq_norm=estimate.grad_sq_norm / ell,
        grad_sq_norm_se=estimate.grad_sq_norm_se / ell,
        covariance=estimate.covariance / ell,
        blocks=tuple((g / ell, s) for g, s in estimate.blocks),
    )


def _refusal(config):
    """A sentence why the rule is not one for the optimizer, or None."""
    kind = optimizer_kind(config.get("optimizer"))
    refusal = rule_refusal(kind, "linear")
    return refusal and str(refusal)


def _windows(runs):
    return [run.window_before_decay for run in runs if not run.diverged]


def _closeness(first, second):
    if first is second:
        return None
    kappa = second.batch_size / first.batch_size
    return seeds.closeness_over_seeds(first.means, second.means, kappa)


def _min_closeness(smallest, batch, target):
    kappa = batch.batch_size / smallest[0].config["batch_size"]
    if kappa == 1:
        return None
    verdict = _verdict(smallest, target, (kappa,))
    return verdict and verdict.min_closeness[kappa]


def _outcome(batch, batches, target):
    if batch.bound is None:
        return None
    found = []
    for other in batches:
        if other.batch_size <= batch.bound[2]:
            continue
        closeness = _closeness(batch, other)
        if other.num_diverged:
            # What diverges has no equilibrium to be close at.
            found.append("held")
        elif closeness:
            is_far = closeness.low > target
            is_close = closeness.high <= target
            found.append(
                "held" if is_far else "failed" if is_close else "undetermined"
            )
    for outcome in ("failed", "undetermined", "held"):
        if outcome in found:
            return outcome
    return "not tested"


def scaling_section(study):
    """`Section` of a `ScalingStudy`."""
    reasons = sections.reasons_text(
        reason for b in study.batches for reason in b.reasons
    )
    target = number(study.target)
    paragraphs = [
        _bound_text(study),
        *_prediction_text(study),
        _error_text(study),
        _scaling_table(study),
        "B\\* = κ_max·B is the largest batch size that the necessary condition "
        "does not rule out, seen from B, with the 95% interval that follows "
        "from N/G's (pooled over seeds) and from the balance. Beyond it R, G "
        f"and N cannot all be within a factor {target} of those at B: that no "
        "batch size beyond was C-close *held* or *failed*, by the 95% interval "
        "of C over seeds; *undetermined* if one contains "
        f"{target}; *not tested* if nothing was measured beyond. C is the "
        "C-closeness to the smallest batch size, measured; *at least* is what "
        "N/G there implies for it, *predicted* what SVAG does. A dash: not "
        "measured.",
        f"The threshold 1/(C² − 1) for SGD's own N/G is "
        f"{number(study.threshold)}.",
    ]
    if reasons:
        paragraphs.append(f"The condition is only a heuristic: {reasons}.")
    figures = {
        "batch-sizes": sections.Figure(
            "G, N, N/G and test accuracy against the batch size; B\\* is that "
            "of the smallest batch size.",
            lambda path: save_scaling(path, study),
        )
    }
    if any(batch.closeness for batch in study.batches):
        figures["closeness"] = sections.Figure(
            "C to the smallest batch size: measured, the least that the "
            "necessary condition allows, and predicted from SVAG.",
            lambda path: save_closeness(path, study),
        )
    return sections.Section(
        "Linear scaling",
        (*paragraphs, *sections.one_seed(study.comparison)),
        figures,
        sections.setting(study.comparison),
    )


def _bound_text(study):
    first = study.batches[0]
    if study.refusal:
        return study.refusal
    if first.bound is None:
        return "No N/G was measured at the smallest batch size: no condition."
    low, point, high = first.bound
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
    return (
        f"{text}. No batch size that was ruled out was C-close in R, G and N: "
        f"{_OUTCOMES[first.outcome]}."
    )


_OUTCOMES = {
    "held": "**held**",
    "failed": "**failed**, one was",
    "undetermined": "**undetermined**, more seeds would tell",
    "not tested": "**not tested**, nothing was measured beyond",
}


def _prediction_text(study):
    """Where C is left, by runs of SVAG; or how to find out."""
    first = study.batches[0]
    if study.refusal:
        return
    if study.leaves_at is None:
        yield (
            "Where C is left can be predicted from runs of SVAG with several "
            "ell at one of these batch sizes (`--sweep ell=1,2`), which are "
            "not in this report."
        )
        return
    svag = study.comparison.svag
    leaves = sections.leaves_text(
        first.batch_size, study.target, study.leaves_at
    )
    yield (
        f"**Predicted** from ell = {', '.join(map(str, svag.groups))} at B = "
        f"{svag.runs[0].config['batch_size']:,}: {leaves}. The prediction "
        f"(derived) is of first order in the learning rate. {sections.SHAPES}"
    )


def _error_text(study):
    """What test error did, of which the theorem does not speak."""
    best, grows_at = study.best, study.error_grows_at
    text = (
        "Test error is another matter, of which the theorem says nothing. The "
        f"least, {number(best.test_error.value)}, is that of B = "
        f"{best.batch_size:,}; "
    )
    grown = f"{GROWN_ERROR - 1:.0%} of its value"
    if grows_at is None:
        return f"{text}no larger batch size exceeds it by more than {grown}."
    text += f"B = {grows_at:,} is the first to exceed it by more than {grown}"
    bound = study.batches[0].bound
    if bound and bound[1]:
        text += f", at {number(grows_at / bound[1])} times B\\*"
    if study.leaves_at and math.isfinite(study.leaves_at[0]):
        ratio = grows_at / study.leaves_at[0]
        text += f" and {number(ratio)} times the batch at which C is left"
    return f"{text}."


def _scaling_table(study):
    header = ["B", "η", "test error", "G", "N", "N/G", "B\\*", "no ruled-out"]
    header[-1] += " batch is C-close"
    return table(
        [*header, "C", "C at least", "C predicted"],
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
        point, *ends = batch.noise_to_signal
        moments = [
            with_error(estimate.grad_sq_norm, estimate.grad_sq_norm_se),
            with_error(estimate.noise_trace, estimate.noise_trace_se),
            _with_interval(point, *ends),
        ]
    closeness = "–"
    if batch.closeness:
        c = batch.closeness
        closeness = number(c.value)
        if batch.test_error.count > 1:
            closeness = _with_interval(c.value, c.low, c.high)
    cells = ["–", "–"]
    for index, ends in enumerate((batch.bound, batch.min_closeness)):
        if ends:
            low, point, high = ends
            cells[index] = _with_interval(point, low, high)
    bound, least = cells
    return [
        f"{batch.batch_size:,}",
        number(batch.learning_rate),
        error,
        *moments,
        bound,
        batch.outcome or "–",
        closeness,
        least,
        _with_interval(*batch.predicted) if batch.predicted else "–",
    ]


def _with_interval(point, low, high):
    return f"{number(point)} {interval(low, high)}"


def save_closeness(path, study):
    """C to the smallest batch size: measured, bounded and predicted.

    Args:
        path: PNG file.
        study: `ScalingStudy`.
    """
    with saved_figure(path, 5.5) as figure:
        axes = figure.subplots()
        measured = [b for b in study.batches if b.closeness]
        values = [b.closeness.value for b in measured]
        finite = [value for value in values if math.isfinite(value)]
        top = 1.3 * max([study.target, *finite])
        axes.set_xscale("log")
        _draw_band(
            axes,
            [
                (b.batch_size, value, low, high)
                for b in study.batches
                if b.min_closeness
                for low, value, high in [b.min_closeness]
                if value is not None
            ],
            4,
            "at least, by the necessary condition",
        )
        _draw_band(
            axes,
            [
                (b.batch_size, *b.predicted)
                for b in study.batches
                if b.predicted
            ],
            2,
            "predicted from SVAG",
        )
        ends = np.array([(b.closeness.low, b.closeness.high) for b in measured])
        axes.errorbar(
            [b.batch_size for b in measured],
            values,
            [
                np.subtract(values, ends[:, 0]),
                np.minimum(ends[:, 1], 10 * top) - values,
            ],
            fmt="o",
            color=COLOURS[0],
            capsize=4,
            label="measured"
            + (" (95% interval)" if study.comparison.num_seeds > 1 else ""),
        )
        axes.axhline(
            study.target,
            color="0.4",
            linestyle=":",
            label=f"C = {study.target:.3g}, asked for",
        )
        axes.set_ylim(0.98, top)
        make_logarithmic(axes)
        sizes = [batch.batch_size for batch in study.batches]
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(sizes[0] / 1.1, sizes[-1] * 1.2)
        axes.set_xlabel("batch size B (examples), learning rate in proportion")
        axes.set_ylabel(f"C to B = {sizes[0]:,} (dimensionless)")
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            fontsize=11,
        )


def _draw_band(axes, points, style, label):
    if not points:
        return
    sizes, values, lows, highs = np.transpose(points)
    style = line_style(style)
    axes.plot(sizes, values, **style, label=label)
    # An open end goes to the edge of the axis.
    axes.fill_between(
        sizes,
        lows,
        np.minimum(highs, 1e6),
        color=style["color"],
        alpha=0.2,
        linewidth=0,
    )


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
        100 * (1 - GROWN_ERROR * study.best.test_error.value),
        color=COLOURS[0],
        linestyle=":",
        label="test error 20% above the best",
    )
    baseline = study.batches[0]
    if baseline.bound:
        low, point, high = baseline.bound
        axes.axvspan(
            low,
            # An open end goes to the edge of the axis.
            min(high, 1e3 * study.batches[-1].batch_size),
            color=COLOURS[5],
            alpha=0.3,
            linewidth=0,
            label=f"B*, bound on C-closeness to B = {baseline.batch_size:,}",
        )
        if point is not None:
            axes.axvline(point, color=COLOURS[5], linestyle="-.")
    axes.set_ylabel(ACCURACY)
    # Outside, lest it hide a point.
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
