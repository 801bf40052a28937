"""Do batches that grow need fewer steps? Runs that differ in growth alone."""

import dataclasses
import math

import numpy as np
from matplotlib.ticker import FuncFormatter

from experiments.growth import is_growing
from experiments.report import sections
from experiments.report.figures import (
    legend_outside,
    line_style,
    make_logarithmic,
    saved_figure,
)
from experiments.report.seeds import comparisons, final_means, seed_mean
from keras_svag.noise.numerals import number, whole, within
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.reporting.blocks import Table

# Column of the history: its name.
LOSSES = {"loss": "training loss", "val_loss": "test loss"}

_SETTINGS = {"growth", "growth_epochs", "max_batch_size", "on_heuristic"}


def growth_comparisons(runs):
    """Comparisons of growing batches with each other and with fixed ones."""
    return comparisons(runs, _group_of, _SETTINGS)


def _group_of(run):
    """`(whether the batch may grow, a name)`: a fixed batch comes first."""
    if not is_growing(run.config):
        return False, "fixed batch"
    growth = run.config["growth"]
    name = f"{growth} to {run.config.get('max_batch_size')}"
    if growth == "always":
        epochs = run.config.get("growth_epochs", ())
        name += f" at epochs {', '.join(map(str, epochs))}"
    elif run.config.get("on_heuristic") == "grow":
        name += ", on heuristics too"
    return True, name


@dataclasses.dataclass(frozen=True)
class StepRatio:
    """Steps of one group over those of another, to the same loss.

    Attributes:
        value, low, high: Geometric mean over the seeds that both have, with
            its 95% interval, Student's over their logarithms; infinite with
            one seed, NaN with none.
        fewer: Seeds with fewer steps.
        count: Seeds.
    """

    value: float
    low: float
    high: float
    fewer: int
    count: int


class GrowthStudy:
    """What it takes to come to the same loss.

    Args:
        comparison: `Comparison` of `growth_comparisons`, by `(whether it
            grows, name)`.

    Attributes:
        targets: `{column of the history: loss}`, the highest at the end of a
            finished run, so that each of them reaches it.
        reached: `{column: {group: {seed: (steps, examples)}}}` at the end of
            the first epoch with such a loss, None where there is none.
        ratios: `{column: {group: StepRatio}}`, to the first group.
    """

    def __init__(self, comparison):
        self.comparison = comparison
        self.targets, self.reached, self.ratios = {}, {}, {}
        finished = [run for run in comparison.runs if not run.diverged]
        for column in LOSSES:
            curves = [run.curve(column) for run in finished]
            last = [curve[np.isfinite(curve)][-1:] for curve in curves]
            if not last or not all(map(len, last)):
                continue
            target = self.targets[column] = float(np.max(last))
            self.reached[column] = reached = {
                group: {
                    run.config["seed"]: _reached(run, column, target)
                    for run in runs
                }
                for group, runs in comparison.groups.items()
            }
            first, *others = reached
            self.ratios[column] = {
                group: _step_ratio(reached[group], reached[first])
                for group in others
            }


def batch_sizes(run):
    """The batch size in each epoch of a run."""
    sizes = run.curve("batch_size")
    return np.where(np.isfinite(sizes), sizes, run.config["batch_size"])


def _reached(run, column, target):
    is_there = run.curve(column) <= target
    if not is_there.any():
        return None
    steps = run.curve("effective_step")
    examples = np.cumsum(np.diff(steps, prepend=0) * batch_sizes(run))
    epoch = np.argmax(is_there)
    return float(steps[epoch]), float(examples[epoch])


def _step_ratio(group, first):
    seeds = [s for s in group if group[s] and first.get(s)]
    pairs = np.array([(group[s][0], first[s][0]) for s in seeds]).reshape(-1, 2)
    value, low, high = mean_interval(np.log(pairs[:, 0] / pairs[:, 1]))
    fewer = int(np.sum(pairs[:, 0] < pairs[:, 1]))
    ends = math.exp(low), math.exp(high) if high < math.inf else math.inf
    return StepRatio(math.exp(value), *ends, fewer, len(seeds))


def mean_interval(values, level=0.95):
    """`(mean, low, high)`, Student's; infinite for one, NaN for none."""
    if not len(values):
        return (math.nan,) * 3
    mean = seed_mean(values)
    if mean.count == 1:
        return mean.value, -math.inf, math.inf
    reach = student_t_quantile(level, mean.count - 1) * mean.standard_error
    return mean.value, mean.value - reach, mean.value + reach


def growth_section(study):
    """`Section` of a `GrowthStudy`."""
    comparison = study.comparison
    headline, *ratios = _ratio_texts(study) or ["No loss was measured."]
    return sections.section(
        "Growing batches",
        comparison,
        headline,
        [
            *ratios,
            *_never(study),
            *_tables(study),
            f"{sections.seeds(comparison)} Steps are the optimizer's, counted "
            "to the end of the first epoch whose loss is at most the highest "
            "that a run ends with; with their means stand Student's 95% "
            "intervals over seeds. The ratio of steps is the geometric mean of "
            "the seeds' own.",
        ],
        {
            "steps": (
                "Losses and batch size against optimizer steps, a line a seed; "
                "the dotted lines are the losses to which steps are counted.",
                lambda path: save_growth(path, study),
            )
        },
    )


def _ratio_texts(study):
    (_, first), *_ = study.comparison.groups
    texts = []
    for column, ratios in study.ratios.items():
        for (_, name), ratio in ratios.items():
            if not ratio.count:
                continue
            found = within(ratio.low, ratio.value, ratio.high)
            seeds = f"in {ratio.fewer} of {ratio.count} seeds"
            if ratio.count == 1:
                found = f"{number(ratio.value)} (no interval: one seed)"
                seeds = "in the one seed" if ratio.fewer else "in no seed"
            elif ratio.fewer == ratio.count:
                seeds = f"in all {ratio.count} seeds"
            texts.append(
                f"To a {LOSSES[column]} of {number(study.targets[column])}, "
                f"{name} takes {found} times the steps of {first}: fewer steps "
                f"{seeds}."
            )
    return texts


def _never(study):
    for column, groups in study.reached.items():
        for (_, name), reached in groups.items():
            seeds = [str(seed) for seed, found in reached.items() if not found]
            if seeds:
                yield (
                    f"A {LOSSES[column]} of {number(study.targets[column])} "
                    f"is never reached by {name} with seed {', '.join(seeds)}."
                )


def _tables(study):
    groups = study.comparison.groups.items()
    yield Table(
        "At the end",
        ("", "batch size", "steps", "test accuracy", "training loss"),
        tuple((name, *_at_the_end(runs)) for (_, name), runs in groups),
    )
    for column, target in study.targets.items():
        yield Table(
            f"To a {LOSSES[column]} of {number(target)}",
            ("", "steps", "examples"),
            tuple(
                (name, *_means(reached.values()))
                for (_, name), reached in study.reached[column].items()
            ),
        )


def _at_the_end(runs):
    sizes = sorted({int(size) for run in runs for size in batch_sizes(run)})
    steps = [run.curve("effective_step")[-1] for run in runs]
    finished = [run for run in runs if not run.diverged]
    cells = ["–", "–"]
    if finished:
        cells = sections.accuracy_and_loss(final_means(finished))
    if len(finished) < len(runs):
        cells[0] += f" ({len(runs) - len(finished)} diverged)"
    ends = " to ".join(f"{size:,}" for size in sorted({sizes[0], sizes[-1]}))
    return ends, whole(float(np.mean(steps))), *cells


def _means(reached):
    """Steps and examples with their intervals; dashes if a seed has none."""
    reached = [*reached]
    if None in reached:
        return "–", "–"
    cells = []
    for values in zip(*reached, strict=True):
        mean, low, high = mean_interval(values)
        ends = f" [{whole(low)}, {whole(high)}]" if len(values) > 1 else ""
        cells.append(whole(mean) + ends)
    return cells


def save_growth(path, study):
    """Losses and batch size against the optimizer's steps.

    Args:
        path: PNG file.
        study: `GrowthStudy`.
    """
    with saved_figure(path, 8) as figure:
        panels = figure.subplots(len(study.targets) + 1, 1, sharex=True)
        *of_losses, of_sizes = np.atleast_1d(panels)
        for index, ((_, name), runs) in enumerate(
            study.comparison.groups.items()
        ):
            style = line_style(index) | {"marker": "", "linewidth": 1.2}
            for number_of_run, run in enumerate(runs):
                steps = run.curve("effective_step")
                label = name if number_of_run == 0 else None
                of_sizes.plot(
                    steps,
                    batch_sizes(run),
                    label=label,
                    drawstyle="steps-pre",
                    **style,
                )
                for axes, column in zip(of_losses, study.targets, strict=True):
                    losses = run.curve(column)
                    shown = np.isfinite(losses)
                    axes.plot(steps[shown], losses[shown], **style)
        for axes, (column, target) in zip(
            of_losses, study.targets.items(), strict=True
        ):
            axes.axhline(target, color="black", linestyle=":", linewidth=1)
            axes.set_ylabel(f"{LOSSES[column]} (nats)")
            make_logarithmic(axes)
        of_sizes.set_yscale("log", base=2)
        of_sizes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        of_sizes.set_ylabel("batch size")
        of_sizes.set_xlabel("optimizer steps")
        ncols = min(len(study.comparison.groups), 3)
        legend_outside(figure, [of_sizes], "upper", ncols=ncols)


GROWING_BATCHES = sections.StudyKind(
    "growth",
    "growth",
    growth_comparisons,
    lambda comparison: growth_section(GrowthStudy(comparison)),
    counts_diverged=True,
)
