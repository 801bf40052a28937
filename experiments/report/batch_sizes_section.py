"""What a study of batch sizes shows: sentences, a table, figures."""

import math

import numpy as np
from matplotlib.ticker import NullLocator

from experiments.report import sections
from experiments.report.batch_sizes import (
    GROWN_ERROR,
    ScalingStudy,
    linear_comparisons,
    square_root_comparisons,
)
from experiments.report.figures import (
    ACCURACY,
    COLOURS,
    LOSS,
    draw_band,
    draw_means,
    legend_outside,
    line_style,
    make_logarithmic,
    saved_figure,
)
from experiments.report.seeds import SeedMean
from keras_svag.noise.numerals import interval, number, with_error, within
from keras_svag.reporting.blocks import Table

_BETAS = {"beta_1": "β₁", "beta_2": "β₂", "rho": "ρ"}
_OUTCOMES = {
    "held": "held",
    "failed": "failed, one was",
    "undetermined": "undetermined, more seeds would tell",
    "not tested": "not tested, nothing was measured beyond",
}


def scaling_section(study):
    """`Section` of a `ScalingStudy`."""
    drawn = "G, N, N/G and test accuracy"
    title, texts = "Linear scaling", _linear_texts
    if not study.is_linear:
        drawn = "q_P, test accuracy and training loss"
        title, texts = "Square-root scaling", _square_root_texts
    figures = {
        "batch-sizes": (
            f"{drawn} against the batch size; B* is that of the smallest batch "
            "size.",
            lambda path: save_scaling(path, study),
        )
    }
    if any(batch.closeness for batch in study.batches):
        figures["closeness"] = (
            "C to the smallest batch size: measured, the least that the "
            "necessary condition allows, and predicted from SVAG.",
            lambda path: save_closeness(path, study),
        )
    return sections.section(
        title,
        study.comparison,
        f"{_bound_text(study)}.",
        [_table(study), *texts(study)],
        figures,
    )


def _bound_text(study):
    first, is_linear = study.batches[0], study.is_linear
    rule = "linear scaling" if is_linear else "the square-root rule"
    if study.refusal:
        return study.refusal.removesuffix(".")
    if first.bound is None:
        noise = "N/G" if is_linear else "preconditioned noise"
        return (
            f"No {noise} was measured at the smallest batch size: no condition "
            f"on {rule}"
        )
    low, point, high = first.bound
    text = (
        f"Seen from B = {first.batch_size:,}, {rule} is not ruled out up to B "
        f"= {number(low)}"
    )
    text += (
        f" and ruled out beyond {number(high)}"
        if math.isfinite(high)
        else ", and no larger batch size is ruled out"
    )
    if not math.isnan(point):
        text += f" (point estimate B* = {number(point)})"
    if not is_linear:
        return f"{text}, by a necessary condition that is derived"
    return (
        f"{text}. No batch size that was ruled out was C-close in R, G and N: "
        f"{_OUTCOMES[first.outcome]}"
    )


def _linear_texts(study):
    target = number(study.target)
    yield _prediction(study)
    yield _error_text(study)
    yield (
        "B* = κ_max·B is the largest batch size that the necessary condition "
        "does not rule out, seen from B, with the 95% interval that follows "
        "from N/G's (pooled over seeds) and from the balance. Beyond it R, G "
        f"and N cannot all be within a factor {target} of those at B: that no "
        "batch size beyond was C-close “held” or “failed”, by the 95% interval "
        f"of C over seeds; “undetermined” if one contains {target}; “not "
        "tested” if nothing was measured beyond. C is the C-closeness to the "
        "smallest batch size, measured; “at least” is what N/G there implies "
        "for it, “predicted” what SVAG does. A dash: not measured."
    )
    yield (
        f"The threshold 1/(C² − 1) for SGD's own N/G is "
        f"{number(study.threshold)}."
    )
    reasons = sections.reasons_text(
        reason for b in study.batches for reason in b.reasons
    )
    if reasons:
        yield f"The condition is only a heuristic: {reasons}."


def _prediction(study):
    """Where C is left, by runs of SVAG; or how to find out."""
    if study.refusal:
        return ""
    if study.leaves_at is None:
        return (
            "Where C is left can be predicted from runs of SVAG with several "
            "ell at one of these batch sizes (--sweep ell=1,2), which are not "
            "in this report."
        )
    svag = study.comparison.beside
    leaves = sections.leaves_text(
        study.batches[0].batch_size, study.target, study.leaves_at
    )
    return (
        f"Predicted from ell = {', '.join(map(str, svag.groups))} at B = "
        f"{svag.runs[0].config['batch_size']:,}: {leaves}. The prediction "
        f"(derived) is of first order in the learning rate. {sections.SHAPES}"
    )


def _error_text(study):
    """What test error did, of which the theorem does not speak."""
    best, grows_at = study.best, study.error_grows_at
    text = (
        "Test error is another matter, of which the theorem says nothing. The "
        f"least, {number(best.test_error)}, is that of B = "
        f"{best.batch_size:,}; "
    )
    grown = f"{GROWN_ERROR - 1:.0%} of its value"
    if grows_at is None:
        return f"{text}no larger batch size exceeds it by more than {grown}."
    text += f"B = {grows_at:,} is the first to exceed it by more than {grown}"
    bound = study.batches[0].bound
    if bound and not math.isnan(bound[1]):
        text += f", at {number(grows_at / bound[1])} times B*"
    if study.leaves_at and math.isfinite(study.leaves_at[0]):
        ratio = grows_at / study.leaves_at[0]
        text += f" and {number(ratio)} times the batch at which C is left"
    return f"{text}."


def _square_root_texts(study):
    text = (
        "Test accuracy and training loss are observations beside it, of which "
        "the condition says nothing"
    )
    if study.linear:
        text += (
            "; “linear” are the runs of the same batch sizes whose learning "
            "rate is in proportion and nothing else scaled, which is no rule "
            "for this optimizer"
        )
    yield f"{text}."
    yield (
        "q_P = N_P/G_P is the noise-to-signal ratio in the optimizer's own "
        "norm, in the last epochs of all seeds together; its 95% interval is "
        "from how N_P and G_P vary within each run. B* = B (C² + (C² − 1) "
        "q_P), seen from B. Beyond it some coordinate's effective learning "
        "rate, its drift in an epoch over its mean gradient, has changed by "
        f"more than a factor {number(study.target)}. The condition is derived "
        "for this project and is not in the paper of the rule (Malladi et al. "
        "2022). It is necessary only, and needs v to follow (many more steps "
        "than 1/(1 − β₂) or 1/(1 − ρ)) and ε to be small against √v."
    )
    yield (
        f"Where q_P is below 1/(C² − 1) = {number(study.threshold)}, some "
        "coordinate's effective learning rate is not that of the SDE to this "
        "factor."
    )


def _table(study):
    rows = [_row(study, batch) for batch in study.batches]
    return Table(
        "By batch size",
        tuple(rows[0]),
        tuple(tuple(row.values()) for row in rows),
    )


def _row(study, batch):
    """`{column: cell}`."""
    is_linear, first = study.is_linear, study.batches[0]
    accuracy, loss = sections.accuracy_and_loss(batch.final)
    if batch.num_diverged:
        accuracy += f" ({batch.num_diverged} diverged)"
    row = {"B": f"{batch.batch_size:,}"}
    row["η"] = number(batch.scaled["learning_rate"])
    for key, symbol in _BETAS.items():
        if key in batch.scaled:
            row[symbol] = f"{batch.scaled[key]:.6g}"
    row |= {"test accuracy": accuracy, "training loss": loss}
    if study.linear:
        final = study.linear.get(batch.batch_size)
        cells = sections.accuracy_and_loss(final) if final else ["–", "–"]
        row |= zip(("accuracy, linear", "loss, linear"), cells, strict=True)
    if is_linear:
        for symbol, name in (("G", "grad_sq_norm"), ("N", "noise_trace")):
            row[symbol] = batch.estimate and with_error(
                getattr(batch.estimate, name),
                getattr(batch.estimate, f"{name}_se"),
            )
    row["N/G" if is_linear else "q_P"] = batch.ratio and within(*batch.ratio)
    row["B*"] = batch.bound and within(*batch.bound)
    row[f"from B = {first.batch_size:,}"] = batch.verdict
    if is_linear:
        closeness, least = batch.closeness, batch.min_closeness
        value, *ends = batch.predicted or [None]
        row |= {
            "no ruled-out batch is C-close": batch.outcome,
            "C": closeness
            and (
                within(closeness.low, closeness.value, closeness.high)
                if batch.final["accuracy"].count > 1
                else number(closeness.value)
            ),
            "C at least": least and within(*least),
            "C predicted": ends and f"{number(value)} {interval(*ends)}",
        }
    return {column: cell or "–" for column, cell in row.items()}


def save_scaling(path, study):
    """What was measured and reached against the batch size, in three panels.

    Args:
        path: PNG file.
        study: `ScalingStudy`.
    """
    is_linear = study.is_linear
    draw = [_draw_ratio, _draw_accuracy]
    draw = [_draw_moments, *draw] if is_linear else [*draw, _draw_loss]
    with saved_figure(path, 10) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        panels[0].set_xscale("log")
        for axes, draw_panel in zip(panels, draw, strict=True):
            draw_panel(axes, study)
        # Error bars without an upper end would stretch the axis.
        _finish_sizes(panels[2], study, 1.4, 1.4, study.is_linear)
        title = "mean ± standard error over seeds"
        legend_outside(figure, panels[2:], "lower", title=title, ncols=2)


def _finish_sizes(axes, study, below, above, in_proportion=True):
    """Gives an axis of batch sizes its ticks, its ends and its label."""
    sizes = [batch.batch_size for batch in study.batches]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(sizes[0] / below, sizes[-1] * above)
    axes.set_xlabel(
        "batch size B (examples)"
        + ", learning rate in proportion" * in_proportion
    )


def _draw_moments(axes, study):
    for index, (name, label) in enumerate(
        (("grad_sq_norm", "G = |∇L|²"), ("noise_trace", "N = Tr Σ at B")), 1
    ):
        means = {
            batch.batch_size: SeedMean(
                getattr(batch.estimate, name),
                getattr(batch.estimate, f"{name}_se"),
                1,
            )
            for batch in study.batches
            if batch.estimate and getattr(batch.estimate, name) > 0
        }
        draw_means(
            axes,
            means,
            means.values(),
            **line_style(index),
            label=f"{label} (± standard error)",
        )
    make_logarithmic(axes)
    axes.set_ylabel("squared gradient units")
    axes.legend()


def _draw_ratio(axes, study):
    symbol = "N/G" if study.is_linear else "q_P"
    shown = [
        (batch.batch_size, low if math.isnan(point) else point, low, high)
        for batch in study.batches
        for low, point, high in [batch.ratio or (0, math.nan, math.inf)]
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
            **line_style(3),
            capsize=4,
            label=f"{symbol} (95% interval; arrow: no upper end)",
        )
    axes.axhline(
        study.threshold,
        color=COLOURS[4],
        linestyle="--",
        label=f"threshold 1/(C² − 1) = {study.threshold:.3g}",
    )
    make_logarithmic(axes)
    axes.set_ylabel(f"{symbol} (dimensionless)")
    axes.legend()


def _draw_accuracy(axes, study):
    _draw_means(axes, study, "accuracy", 100)
    if study.is_linear:
        axes.axhline(
            100 * (1 - GROWN_ERROR * study.best.test_error),
            color=COLOURS[0],
            linestyle=":",
            label="test error 20% above the best",
        )
    axes.set_ylabel(ACCURACY)


def _draw_loss(axes, study):
    _draw_means(axes, study, "loss", 1)
    make_logarithmic(axes)
    axes.set_ylabel(LOSS)


def _draw_means(axes, study, quantity, unit):
    own = {b.batch_size: b.final for b in study.batches if not b.num_diverged}
    # Of a linear study it is the only one.
    rules = {"linear": study.linear} | {study.rule: own}
    for index, (rule, finals) in enumerate(rules.items(), 1):
        if finals:
            draw_means(
                axes,
                finals,
                [final[quantity] for final in finals.values()],
                unit,
                **line_style(index),
                label=f"{rule.replace('_', '-')} rule",
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
    first = study.batches[0]
    if first.bound:
        low, point, high = first.bound
        axes.axvspan(
            low,
            # An open end goes to the edge of the axis.
            min(high, 1e3 * study.batches[-1].batch_size),
            color=COLOURS[5],
            alpha=0.3,
            linewidth=0,
            label=f"B*, bound seen from B = {first.batch_size:,}",
        )
        if not math.isnan(point):
            axes.axvline(point, color=COLOURS[5], linestyle="-.")


def save_closeness(path, study):
    """C to the smallest batch size: measured, bounded and predicted.

    Args:
        path: PNG file.
        study: `ScalingStudy`.
    """
    measured = [b for b in study.batches if b.closeness]
    sizes = [b.batch_size for b in measured]
    ends = [(c.low, c.value, c.high) for c in (b.closeness for b in measured)]
    least = [
        (b.batch_size, value, low, high)
        for b in study.batches
        for low, value, high in filter(None, [b.min_closeness])
        if value is not None
    ]
    predicted = [
        (b.batch_size, *b.predicted) for b in study.batches if b.predicted
    ]
    low, values, high = np.transpose(ends)
    top = 1.3 * max([study.target, *values[np.isfinite(values)]])
    with saved_figure(path, 5.5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        _draw_closeness(axes, least, 4, "at least, by the necessary condition")
        _draw_closeness(axes, predicted, 2, "predicted from SVAG")
        axes.errorbar(
            sizes,
            values,
            [values - low, np.minimum(high, 10 * top) - values],
            fmt="o",
            color=COLOURS[0],
            capsize=4,
            label="measured"
            + " (95% interval)" * (study.comparison.num_seeds > 1),
        )
        axes.axhline(
            study.target,
            color="0.4",
            linestyle=":",
            label=f"C = {study.target:.3g}, asked for",
        )
        axes.set_ylim(0.98, top)
        make_logarithmic(axes)
        _finish_sizes(axes, study, 1.1, 1.2)
        first = study.batches[0].batch_size
        axes.set_ylabel(f"C to B = {first:,} (dimensionless)")
        legend_outside(figure, [axes], "lower", ncols=2, fontsize=11)


def _draw_closeness(axes, points, style, label):
    if points:
        sizes, values, low, high = np.transpose(points)
        style = line_style(style)
        axes.plot(sizes, values, **style, label=label)
        # An open end goes to the edge of the axis.
        high = np.minimum(high, 1e6)
        draw_band(axes, sizes, low, high, style["color"], alpha=0.2)


LINEAR_SCALING = sections.StudyKind(
    "scaling",
    "batch_size with learning_rate in proportion",
    linear_comparisons,
    lambda found: scaling_section(ScalingStudy(found, "linear")),
    counts_diverged=True,
)
SQUARE_ROOT_SCALING = sections.StudyKind(
    "square-root",
    "batch_size with Adam's or RMSprop's numbers by the square-root rule",
    square_root_comparisons,
    lambda found: scaling_section(ScalingStudy(found, "square_root")),
    counts_diverged=True,
)
