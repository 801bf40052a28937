"""Finds and reads the runs that `train.py` has written below a folder."""

import csv
import dataclasses
import math
import os
import re

import numpy as np

from experiments.run_folder import read_json
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.closeness import EquilibriumStatistics
from keras_svag.scaling.conditions import is_balanced
from keras_svag.version import __version__


@dataclasses.dataclass(frozen=True)
class Window:
    """What a run measured over a stretch of one learning rate.

    Attributes:
        estimate: `NoiseEstimate` of the window.
        weight_sq_norm: R, mean over the window; NaN if not measured.
        learning_rate: η in the window.
        first_epoch, last_epoch: The window, counted from 1.
        heuristic_reasons: Assumptions of the theory that fail or are not
            known to hold, a phrase each.
        balance: Left over right side of the equilibrium identity, or None.
        at_equilibrium: Whether R, G and N are at rest; None if not known.
    """

    estimate: NoiseEstimate
    weight_sq_norm: float
    learning_rate: float
    first_epoch: int
    last_epoch: int
    heuristic_reasons: tuple[str, ...] = ()
    balance: float | None = None
    at_equilibrium: bool | None = None

    @property
    def statistics(self):
        """`EquilibriumStatistics` without errors."""
        return EquilibriumStatistics(
            self.weight_sq_norm,
            self.estimate.grad_sq_norm,
            self.estimate.noise_trace,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has come to its end.

    Attributes:
        name: Path of its folder below the one that was searched.
        config: `{key: value}` with dots for what is nested, `"model.name"`.
        history: `{column: array}`, a value an epoch, NaN where it was not
            measured.
        results: What `results.json` holds; empty if the run diverged.
    """

    name: str
    config: dict
    history: dict[str, np.ndarray]
    results: dict

    @property
    def diverged(self):
        """Whether the run stopped at a loss that was not finite."""
        return not self.results

    @property
    def accuracy(self):
        """Test accuracy at the end; NaN if the run diverged."""
        return math.nan if self.diverged else self.results["accuracy"]

    @property
    def epochs(self):
        """SGD epochs done at each entry of the history."""
        return self.history["epoch"] + 1

    def curve(self, column):
        """A column of the history; NaN throughout if there is none."""
        return self.history.get(column, np.full(len(self.epochs), math.nan))

    @property
    def final_window(self):
        """`Window` of the end of the run; None if no noise was measured."""
        report = self.results.get("linear_scaling")
        if report:
            return _window_of_report(report)
        noise = self.results.get("gradient_noise")
        if not noise:
            return None
        return Window(
            NoiseEstimate.from_dict(noise),
            float(self.curve("weight_sq_norm")[-1]),
            float(self.curve("learning_rate")[-1]),
            *(int(self.epochs[-1]),) * 2,
            heuristic_reasons=("equilibrium was not checked",),
        )

    @property
    def window_before_decay(self):
        """`Window` whose learning rate is nearest to the configured one."""
        report = self.results.get("linear_scaling")
        if not report:
            return self.final_window
        windows = map(
            _window_of_report, [report, *reversed(report.get("earlier", []))]
        )
        rate = self.config["learning_rate"]
        # Of equally near ones the last: `min` keeps the first that it meets.
        return min(windows, key=lambda w: round(abs(w.learning_rate - rate), 9))


def find_runs(folder):
    """The runs in a folder and the folders below it.

    A folder with a `config.json` holds a run. One with `results.json` is
    finished; one whose last loss is not finite has diverged and counts too.

    Returns:
        `(runs, unfinished)`: a list of `Run`s and one of folder names.

    Raises:
        ValueError: If there is no run, none has come to its end, or a file
            cannot be read.
    """
    if not os.path.isdir(folder):
        raise ValueError(
            f"WORKDIR must be a folder of runs, got {folder!r}, which is no "
            "folder."
        )
    runs, unfinished = [], []
    for path, subfolders, files in os.walk(folder):
        subfolders.sort()
        if "config.json" in files:
            name = os.path.relpath(path, folder)
            run = _read_run(path, name)
            runs.append(run) if run else unfinished.append(name)
        elif "output.log" in files:
            # A run of a sweep that has not come to training.
            unfinished.append(os.path.relpath(path, folder))
    if not runs and not unfinished:
        raise ValueError(
            f"WORKDIR must hold runs of train.py, but no config.json is in "
            f"{folder!r} or below."
        )
    if not runs:
        raise ValueError(
            f"None of the runs in {folder!r} is finished "
            f"({', '.join(unfinished)}): start train.py again with the same "
            "--workdir."
        )
    return runs, unfinished


def _read_run(path, name):
    """The `Run` in a folder, or None if it is unfinished."""
    config = flat(read_json(os.path.join(path, "config.json")))
    _refuse_newer(path, config)
    history = _read_history(os.path.join(path, "history.csv"))
    results_file = os.path.join(path, "results.json")
    results = read_json(results_file)
    if results is None:
        losses = history.get("loss", np.empty(0))
        # Training stops at such a loss, and nothing follows it.
        diverged = len(losses) and not math.isfinite(losses[-1])
        return Run(name, config, history, {}) if diverged else None
    if not isinstance(results.get("accuracy"), float):
        raise ValueError(
            f"{results_file} has no accuracy: remove it and run train.py again."
        )
    if not len(history.get("epoch", ())):
        raise ValueError(
            f"{path!r} holds a finished run without the epochs of its "
            "history.csv: remove the folder and run train.py again."
        )
    run = Run(name, config, history, results)
    _check_noise(run, results_file)
    return run


def _check_noise(run, results_file):
    try:
        # Nothing is read before it is asked for.
        _ = run.final_window, run.window_before_decay
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{results_file} lacks what a report needs ({error}): remove it "
            "and run train.py again."
        ) from error


def flat(config, prefix=""):
    """A nested dict as one with dots in its keys; lists become tuples."""
    entries = {}
    for key, value in config.items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = _hashable(value)
    return entries


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _refuse_newer(path, config):
    version = str(config.get("version", "0"))
    if _version_numbers(version) > _version_numbers(__version__):
        raise ValueError(
            f"The run in {path!r} was made by keras_svag {version}, newer than "
            f"this keras_svag {__version__}: install that version to report "
            "on it."
        )


def _version_numbers(version):
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:3]]
    return numbers + [0] * (3 - len(numbers))


def _read_history(path):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove the run's folder."
        ) from error
    columns = [name for name in rows[0] if name is not None] if rows else []
    return {
        name: np.array([_number(row[name]) for row in rows]) for name in columns
    }


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _window_of_report(report):
    norm = report["weight_sq_norm"]
    return Window(
        NoiseEstimate.from_dict(report["gradient_noise"]),
        math.nan if norm is None else norm,
        report["learning_rate"],
        report["first_epoch"],
        report["last_epoch"],
        tuple(report["heuristic_reasons"]),
        report["balance"],
        # In files of before, the balance alone tells.
        report.get("at_equilibrium", is_balanced(report["balance"])),
    )


def equilibrium_counts(windows):
    """How many runs have reached equilibrium, have not, and are not known to.

    Args:
        windows: `Window`s, a run each, or None where nothing was measured.

    Returns:
        Three counts.
    """
    known = [window and window.at_equilibrium for window in windows]
    return known.count(True), known.count(False), known.count(None)
