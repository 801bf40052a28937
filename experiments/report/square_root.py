"""How far does the square-root rule go? Adam's runs of several batch sizes."""

import dataclasses
import math

import numpy as np
from matplotlib.ticker import NullLocator

from experiments.optimizers import square_root_scaled
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
    LOSS,
    error_bar,
    line_style,
    make_logarithmic,
    saved_figure,
)
from experiments.report.scaling import scaling_comparisons
from keras_svag.noise.numerals import interval, number
from keras_svag.reporting.markdown import table
from keras_svag.scaling.bounds import (
    max_batch_multiplier,
    min_noise_to_signal,
)

# What the rule scales.
_SCALED = (
    "learning_rate",
    "beta_1",
    "beta_2",
    "rho",
    "epsilon",
    "weight_decay",
)
_FREE = {"batch_size", *_SCALED}
_SYMBOLS = {"beta_1": "β₁", "beta_2": "β₂", "rho": "ρ"}


@dataclasses.dataclass(frozen=True)
class SquareRootComparison(Comparison):
    """Runs of several batch sizes, and those of the linear rule beside them.

    Attributes:
        linear: `Comparison` of batch sizes with the learning rate in
            proportion and nothing else scaled, from one of these runs; or
            None.
    """

    linear: Comparison | None = None


def square_root_comparisons(runs):
    """Comparisons of batch size with the rest scaled by the square-root rule.

    A number that a configuration leaves to the optimizer is its default.
    """
    scaled = [(run, _scaled_to_one(run)) for run in runs]
    families = {id(run): family for run, family in scaled if family}

    def batch_size(run):
        return run.config["batch_size"] if id(run) in families else None

    def family(run):
        return families.get(id(run))

    found = comparisons(runs, batch_size, _FREE, family)
    if not found:
        return []
    linear = scaling_comparisons(runs)
    result = []
    for comparison in found:
        first = comparison.runs[0]

        def belongs(run, first=first):
            same = same_setting(first, run, _FREE)
            return same and family(run) == family(first)

        beside = (c for c in linear if any(map(belongs, c.runs)))
        result.append(
            SquareRootComparison(
                # Defaults left out and given are one configuration.
                {B: _of_each_seed(rs) for B, rs in comparison.groups.items()},
                comparison.common,
                comparison.differing,
                next(beside, None),
            )
        )
    return result


def _scaled_to_one(run):
    """What the rule makes of a run at B = 1, to four digits; None without."""
    if not has_numbers(run, "batch_size", "learning_rate"):
        return None
    try:
        scaled = square_root_scaled(run.config, 1 / run.config["batch_size"])
    except (TypeError, ValueError):
        return None
    for beta in ("beta_1", "beta_2", "rho"):
        if beta in scaled:
            scaled[beta] = 1 - scaled[beta]
    # Of the logarithm: decimal fractions lie on no edge of it.
    return tuple(
        (key, value and round(1e4 * math.log(value)))
        for key, value in scaled.items()
    )


def _of_each_seed(runs):
    first = {}
    for run in runs:
        first.setdefault(repr(run.config.get("seed")), run)
    return list(first.values())


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What the runs of one batch size have shown.

    Attributes:
        batch_size: B.
        scaled: `{key: value}` of what the rule scales.
        final: `{"accuracy" or "loss": SeedMean}`; of a run that diverged the
            accuracy is 0, and it has no loss.
        num_diverged: Runs that stopped at a loss that was not finite.
        noise_to_signal: `(low, point, high)` of q_P with its 95% interval,
            NaN for a point without one; None if it was not measured.
        bound: `(low, point, high)` of the largest batch size that is not ruled
            out, seen from this one, or None.
        verdict: "ruled out", "not ruled out" or "undetermined", seen from the
            smallest batch size; None there, and without its q_P.
    """

    batch_size: int
    scaled: dict[str, float]
    final: dict[str, seeds.SeedMean]
    num_diverged: int
    noise_to_signal: tuple[float, float, float] | None
    bound: tuple[float, float, float] | None
    verdict: str | None = None


@dataclasses.dataclass(frozen=True)
class SquareRootStudy:
    """What runs of several batch sizes say about the square-root rule.

    Attributes:
        comparison: `SquareRootComparison`, runs that diverged included.
        batches: `BatchSize`s, increasing.
        linear: `{B: final}` of the runs of the linear rule, perhaps empty.
        target: C.
    """

    comparison: SquareRootComparison
    batches: tuple[BatchSize, ...]
    linear: dict[int, dict[str, seeds.SeedMean]]
    target: float


def square_root_study(comparison):
    """Evaluates Adam's runs whose hyperparameters follow the batch size.

    Batch size κB is ruled out, seen from B, if some coordinate cannot keep its
    effective learning rate within C: κ > C² + (C² - 1) q_P (derived, THEORY.md
    section 7), for every q_P in its interval; not ruled out if for none.
    """
    config = comparison.runs[0].config
    target = config.get("lsr.closeness", 2**0.5)
    batches = [_batch_size(rs, target) for rs in comparison.groups.values()]
    first = batches[0]
    linear = comparison.linear.groups if comparison.linear else {}
    return SquareRootStudy(
        comparison,
        (
            first,
            *(
                dataclasses.replace(b, verdict=_verdict(first, b.batch_size))
                for b in batches[1:]
            ),
        ),
        {B: _final(runs) for B, runs in linear.items()},
        target,
    )


def _batch_size(runs, target):
    config = runs[0].config
    scaled = square_root_scaled(config, 1)
    q = seeds.preconditioned_noise_to_signal(runs)
    bound = None
    if q is not None:
        # Both runs are SVAG's: the signal's share in v is 1/ell in both.
        ell = seeds.ell_of(config)
        multipliers = max_batch_multiplier(np.multiply(ell, q), target)
        bound = tuple(float(config["batch_size"] * m) for m in multipliers)
    return BatchSize(
        config["batch_size"],
        {key: scaled[key] for key in _SCALED if key in scaled},
        _final(runs),
        sum(run.diverged for run in runs),
        q,
        bound,
    )


def _final(runs):
    converged = [run for run in runs if not run.diverged]
    accuracies = [0.0 if run.diverged else run.accuracy for run in runs]
    losses = [run.curve("loss")[-1] for run in converged]
    return {
        "accuracy": seeds.seed_mean(accuracies),
        "loss": seeds.seed_mean(losses or [math.nan]),
    }


def _verdict(first, batch_size):
    if first.bound is None:
        return None
    low, _, high = first.bound
    if batch_size > high:
        return "ruled out"
    return "not ruled out" if batch_size <= low else "undetermined"


def square_root_section(study):
    """`Section` of a `SquareRootStudy`."""
    target = number(study.target)
    paragraphs = [
        _bound_text(study),
        "Test accuracy and training loss are observations beside it, of which "
        "the condition says nothing"
        + (
            "; *linear* are the runs of the same batch sizes whose learning "
            "rate is in proportion and nothing else scaled, which is no rule "
            "for this optimizer."
            if study.linear
            else "."
        ),
        _batch_table(study),
        "q_P = N_P/G_P is the noise-to-signal ratio in the optimizer's own "
        "norm, in the last epochs of all seeds together; its 95% interval is "
        "from how N_P and G_P vary within each run. B\\* = B (C² + (C² − 1) "
        "q_P), seen from B. Beyond it some coordinate's effective learning "
        "rate, its drift in an epoch over its mean gradient, has changed by "
        f"more than a factor {target}. The condition is derived for this "
        "project and is not in the paper of the rule (Malladi et al. 2022). It "
        "is necessary only, and needs v to follow (many more steps than "
        "1/(1 − β₂) or 1/(1 − ρ)) and ε to be small against √v.",
        "Where q_P is below 1/(C² − 1) = "
        f"{number(min_noise_to_signal(study.target))}, some coordinate's "
        "effective learning rate is not that of the SDE to this factor.",
    ]
    figures = {
        "batch-sizes": sections.Figure(
            "q_P, test accuracy and training loss against the batch size; B\\* "
            "is that of the smallest batch size.",
            lambda path: save_square_root(path, study),
        )
    }
    return sections.Section(
        "Square-root scaling",
        (*paragraphs, *sections.one_seed(study.comparison)),
        figures,
        sections.setting(study.comparison),
    )


def _bound_text(study):
    first = study.batches[0]
    if first.bound is None:
        return (
            "No preconditioned noise was measured at the smallest batch size: "
            "no condition on the square-root rule."
        )
    low, point, high = first.bound
    text = (
        f"Seen from B = {first.batch_size:,}, the square-root rule is not "
        f"ruled out up to B = {number(low)}"
    )
    text += (
        f" and ruled out beyond {number(high)}"
        if math.isfinite(high)
        else ", and no larger batch size is ruled out"
    )
    if not math.isnan(point):
        text += f" (point estimate B\\* = {number(point)})"
    return f"{text}, by a necessary condition that is derived."


def _batch_table(study):
    first = study.batches[0]
    betas = [key for key in _SYMBOLS if key in first.scaled]
    header = ["B", "η", *(_SYMBOLS[key] for key in betas)]
    header += ["test accuracy", "training loss"]
    header += ["accuracy, linear", "loss, linear"] if study.linear else []
    header += ["q_P", "B\\*", f"from B = {first.batch_size:,}"]
    rows = []
    for batch in study.batches:
        accuracy, loss = sections.accuracy_and_loss(batch.final)
        if batch.num_diverged:
            accuracy += f" ({batch.num_diverged} diverged)"
        row = [f"{batch.batch_size:,}", number(batch.scaled["learning_rate"])]
        row += [f"{batch.scaled[key]:.6g}" for key in betas]
        row += [accuracy, loss]
        if study.linear:
            final = study.linear.get(batch.batch_size)
            row += sections.accuracy_and_loss(final) if final else ["–", "–"]
        for ends in (batch.noise_to_signal, batch.bound):
            low, point, high = ends or (math.nan,) * 3
            cell = f"{number(point)} {interval(low, high)}"
            row.append(cell if ends else "–")
        rows.append([*row, batch.verdict or "–"])
    return table(header, rows)


def save_square_root(path, study):
    """q_P, test accuracy and training loss against the batch size.

    Args:
        path: PNG file.
        study: `SquareRootStudy`.
    """
    with saved_figure(path, 10) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        panels[0].set_xscale("log")
        _draw_noise(panels[0], study)
        square_root = {b.batch_size: b.final for b in study.batches}
        for axes, quantity, unit in (
            (panels[1], "accuracy", 100),
            (panels[2], "loss", 1),
        ):
            for index, (label, finals) in enumerate(
                (("square-root", square_root), ("linear", study.linear)), 1
            ):
                if finals:
                    means = [final[quantity] for final in finals.values()]
                    axes.errorbar(
                        list(finals),
                        [unit * m.value for m in means],
                        [unit * error_bar(m.standard_error) for m in means],
                        **line_style(index),
                        capsize=4,
                        label=f"{label} rule",
                    )
            _draw_bound(axes, study)
        panels[1].set_ylabel(ACCURACY)
        panels[2].set_ylabel(LOSS)
        make_logarithmic(panels[2])
        sizes = list(square_root)
        panels[2].set_xlabel("batch size B (examples)")
        panels[2].set_xticks(sizes, [f"{size:,}" for size in sizes])
        panels[2].xaxis.set_minor_locator(NullLocator())
        panels[2].set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
        # Outside, lest it hide a point.
        figure.legend(
            *panels[2].get_legend_handles_labels(),
            loc="outside lower center",
            title="mean ± standard error over seeds",
            ncols=3,
        )


def _draw_noise(axes, study):
    shown = [
        (b.batch_size, point, low, high)
        for b in study.batches
        for low, point, high in [b.noise_to_signal or (math.nan,) * 3]
        if point > 0
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
            label="q_P (95% interval; arrow: no upper end)",
        )
    threshold = min_noise_to_signal(study.target)
    axes.axhline(
        threshold,
        color=COLOURS[4],
        linestyle="--",
        label=f"threshold 1/(C² − 1) = {threshold:.3g}",
    )
    make_logarithmic(axes)
    axes.set_ylabel("q_P (dimensionless)")
    axes.legend()


def _draw_bound(axes, study):
    first = study.batches[0]
    if first.bound is None:
        return
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


SQUARE_ROOT_SCALING = sections.StudyKind(
    "square-root",
    "batch_size with Adam's or RMSprop's numbers by the square-root rule",
    square_root_comparisons,
    lambda comparison: square_root_section(square_root_study(comparison)),
    counts_diverged="in a study of square-root scaling, with a test accuracy "
    "of 0",
)
