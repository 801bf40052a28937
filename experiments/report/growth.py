"""Do batches that grow need fewer steps? Runs that differ in growth alone."""

import math

import numpy as np

from experiments.growth import is_growing
from experiments.report import seeds, study
from keras_svag.noise.numerals import number, whole, within

# Column of the history: its name.
LOSSES = {"loss": "training loss", "val_loss": "test loss"}


class GrowthStudy(study.Study):
    """What it takes to come to the same loss.

    `targets` is `{column of the history: loss}`, the highest at the end of a
    finished run, so that each of them reaches it; `reached` is `{column:
    {group: {seed: (steps, examples)}}}` at the end of the first epoch with such
    a loss, or None.
    """

    name = differ_in = "growth"
    free = {"growth", "growth_epochs", "max_batch_size", "on_heuristic"}
    counts_diverged = True
    title = "Growing batches"

    @staticmethod
    def value_of(run):
        """`(whether the batch may grow, a name)`: a fixed batch comes first."""
        config = run.config
        if not is_growing(config):
            return False, "fixed batch"
        name = f"{config['growth']} to {config['max_batch_size']}"
        if config["growth"] == "always":
            epochs = ", ".join(map(str, config["growth_epochs"]))
            name += f" at epochs {epochs}"
        elif config.get("on_heuristic") == "grow":
            name += ", on heuristics too"
        return True, name

    def measure(self):
        self.targets, self.reached = {}, {}
        finished = seeds.converged(self.runs)
        for column in LOSSES:
            curves = [run.curve(column) for run in finished]
            last = [curve[np.isfinite(curve)][-1:] for curve in curves]
            if last and all(map(len, last)):
                target = self.targets[column] = float(np.max(last))
                self.reached[column] = {
                    group: {
                        run.config["seed"]: _reached(run, column, target)
                        for run in runs
                    }
                    for group, runs in self.groups.items()
                }

    def _loss(self, column):
        return f"{LOSSES[column]} of {number(self.targets[column])}"

    def _ratio_texts(self):
        for column, reached in self.reached.items():
            ((_, first), base), *others = reached.items()
            for (_, name), ours in others:
                logs = [
                    math.log(found[0] / base[seed][0])
                    for seed, found in ours.items()
                    if found and base.get(seed)
                ]
                if not logs:
                    continue
                mean, fewer = seeds.seed_mean(logs), sum(x < 0 for x in logs)
                value, low, high = np.exp([mean.value, *mean.interval()])
                found = within(low, value, high)
                if mean.count == 1:
                    found = f"{number(value)} (no interval: one seed)"
                yield (
                    f"To a {self._loss(column)}, {name} takes {found} times "
                    f"the steps of {first}: fewer steps in {fewer} of "
                    f"{mean.count} seeds."
                )

    @property
    def headline(self):
        return next(self._ratio_texts(), "No loss was measured.")

    def parts(self):
        yield from [*self._ratio_texts()][1:]
        tables = []
        for column, groups in self.reached.items():
            rows = []
            for (_, name), reached in groups.items():
                rows.append({"": name, **_cost([*reached.values()])})
                never = [str(s) for s, found in reached.items() if not found]
                if never:
                    yield (
                        f"A {self._loss(column)} is never reached by {name} "
                        f"with seed {', '.join(never)}."
                    )
            tables.append(study.table(f"To a {self._loss(column)}", rows))
        groups = self.groups.items()
        rows = [{"": name, **self._end(runs)} for (_, name), runs in groups]
        yield study.table("At the end", rows)
        yield from tables
        yield (
            f"{self.seeds_text} Steps are the optimizer's, counted to the end "
            "of the first epoch whose loss is at most the highest that a run "
            "ends with; with their means stand Student's 95% intervals over "
            "seeds. The ratio of steps is the geometric mean of the seeds' own."
        )

    def _end(self, runs):
        """What a group has at the end, for a row."""
        sizes = np.concatenate([*map(_batch_sizes, runs)])
        ends = sorted({int(sizes.min()), int(sizes.max())})
        steps = np.mean([run.curve("effective_step")[-1] for run in runs])
        finished = seeds.converged(runs)
        means = seeds.means_over_seeds(finished, self.window_of)
        return {
            "batch size": " to ".join(f"{size:,}" for size in ends),
            "steps": whole(float(steps)),
            **study.outcome(means, len(runs) - len(finished)),
        }

    def plots(self):
        caption = (
            "Losses and batch size against optimizer steps, a line a seed; the "
            "dotted lines are the losses to which steps are counted."
        )
        return {"steps": (caption, 8, self.draw_steps)}

    def draw_steps(self, figure):
        panels = figure.subplots(len(self.targets) + 1, 1, sharex=True)
        *of_losses, of_sizes = np.atleast_1d(panels)
        of_losses = dict(zip(self.targets, of_losses, strict=True))
        for index, ((_, name), runs) in enumerate(self.groups.items()):
            style = study.line_style(index) | {"marker": "", "linewidth": 1.2}
            for run in runs:
                steps, sizes = run.curve("effective_step"), _batch_sizes(run)
                label = name if run is runs[0] else None
                stairs = {"drawstyle": "steps-pre", "label": label}
                of_sizes.plot(steps, sizes, **stairs, **style)
                for column, axes in of_losses.items():
                    losses = run.curve(column)
                    shown = np.isfinite(losses)
                    axes.plot(steps[shown], losses[shown], **style)
        for column, axes in of_losses.items():
            target = self.targets[column]
            axes.axhline(target, color="black", linestyle=":", linewidth=1)
            axes.set_ylabel(f"{LOSSES[column]} (nats)")
            study.make_logarithmic(axes)
        of_sizes.set_yscale("log", base=2)
        of_sizes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        of_sizes.set_ylabel("batch size")
        of_sizes.set_xlabel("optimizer steps")
        ncols = min(len(self.groups), 3)
        study.legend_outside(figure, [of_sizes], "upper", ncols=ncols)


def _batch_sizes(run):
    """The batch size in each epoch of a run."""
    sizes = run.curve("batch_size")
    return np.where(np.isfinite(sizes), sizes, run.config["batch_size"])


def _reached(run, column, target):
    """`(steps, examples)` to a loss, or None."""
    is_there = run.curve(column) <= target
    if not is_there.any():
        return None
    steps = run.curve("effective_step")
    examples = np.cumsum(np.diff(steps, prepend=0) * _batch_sizes(run))
    epoch = np.argmax(is_there)
    return float(steps[epoch]), float(examples[epoch])


def _cost(reached):
    """Steps and examples, for a row; nothing if a seed never gets there."""
    row = dict.fromkeys(("steps", "examples"))
    if None not in reached:
        for name, values in zip(row, np.transpose(reached), strict=True):
            mean = seeds.seed_mean(values)
            ends = ", ".join(map(whole, mean.interval()))
            row[name] = whole(mean.value) + f" [{ends}]" * (mean.count > 1)
    return row
