"""Finds and reads the runs that `train.py` has written below a folder."""

import csv
import dataclasses
import functools
import math
import os
import re

import numpy as np
import pandas

from experiments import config as configuration
from experiments.optimizers import optimizer_class
from experiments.process.own_files import UNUSABLE, unreadable
from experiments.run_folder import (
    CHECKSUM,
    OUTPUT_LOG,
    configuration_checksum,
    read_json,
)
from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.closeness import EquilibriumStatistics
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.reasons import Reason
from keras_svag.version import __version__

# What a report cannot do without.
_NEEDED = (
    "optimizer",
    "batch_size",
    "epochs",
    "ell",
    "learning_rate",
    "weight_decay",
    "seed",
    "lsr.closeness",
)
_nonnegative = functools.partial(arguments.number, least=0)
_CONDITIONS_CHECKS = {
    "learning_rate": _nonnegative,
    "weight_decay": _nonnegative,
    "momentum": _nonnegative,
    "ell": arguments.integer,
    "balance": functools.partial(arguments.number, optional=True),
}
# The most that a column of a history can hold; none of these is below 0.
_MOST = {
    "accuracy": 1,
    "val_accuracy": 1,
    "loss": math.inf,
    "val_loss": math.inf,
    "batch_size": math.inf,
    "learning_rate": math.inf,
    "effective_step": math.inf,
    "continuous_time": math.inf,
    "weight_sq_norm": math.inf,
    "noise_trace": math.inf,
}


@dataclasses.dataclass(frozen=True)
class Window:
    """What a run measured over a stretch of one learning rate.

    Attributes:
        estimate: `NoiseEstimate` of the window.
        weight_sq_norm: R, mean over the window; NaN if not measured.
        learning_rate: η in the window.
        first_epoch, last_epoch: The window, counted from 1.
        reasons: Assumptions of the theory that fail or are not known to hold,
            a `Reason` each.
        balance: Left over right side of the equilibrium identity, or None.
        at_equilibrium: Whether R, G and N are at rest; None if not known.
    """

    estimate: NoiseEstimate
    weight_sq_norm: float
    learning_rate: float
    first_epoch: int
    last_epoch: int
    reasons: tuple[Reason, ...] = ()
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
        noise = self.results.get("gradient_noise")
        if report:
            # The noise of the report may be in the norm of the optimizer.
            return _window_of_report({**report, "gradient_noise": noise})
        if not noise:
            return None
        last = int(self.epochs[-1])
        return Window(
            NoiseEstimate.from_dict(noise),
            float(self.curve("weight_sq_norm")[-1]),
            float(self.curve("learning_rate")[-1]),
            last,
            last,
            (Reason("equilibrium_unknown"),),
        )

    @property
    def preconditioned_noise(self):
        """`NoiseEstimate` in the norm of an adaptive optimizer, or None."""
        report = self.results.get("linear_scaling")
        if not report or not _is_preconditioned(report):
            return None
        return NoiseEstimate.from_dict(report["gradient_noise"])

    @property
    def window_before_decay(self):
        """`Window` whose learning rate is nearest to the configured one."""
        report = self.results.get("linear_scaling")
        rate = self.config.get("learning_rate")
        if not report or rate is None or _is_preconditioned(report):
            return self.final_window
        windows = map(
            _window_of_report, [report, *reversed(report.get("earlier", []))]
        )
        # Of equally near ones the last: `min` keeps the first that it meets.
        return min(windows, key=lambda w: round(abs(w.learning_rate - rate), 9))


def _is_preconditioned(report):
    """Whether the noise of a report is that in the norm of the optimizer."""
    conditions = report["conditions"]
    return bool(
        conditions["adaptive"] and conditions["optimizer"]["second_moments"]
    )


def find_runs(folder):
    """The runs in a folder and the folders below it.

    A folder with a `config.json` holds a run. One with `results.json` is
    finished; one whose last loss is not finite has diverged and counts too.

    Returns:
        `(runs, unfinished, unusable)`: a list of `Run`s, one of folder names,
        and `{folder name: why a file in it cannot be used}`.

    Raises:
        ValueError: If there is no run, none has come to its end, or none can
            be used.
    """
    if not os.path.isdir(folder):
        raise ValueError(
            f"WORKDIR must be a folder of runs, got {folder!r}, which is no "
            "folder."
        )
    runs, unfinished, unusable = [], [], {}

    def leave_out(error):
        name = os.path.relpath(error.filename, folder)
        unusable[name] = str(unreadable(error.filename, error))

    for path, subfolders, files in os.walk(folder, onerror=leave_out):
        subfolders.sort()
        if "config.json" in files:
            name = os.path.relpath(path, folder)
            try:
                run = _read_run(path, name)
            except ValueError as error:
                unusable[name] = str(error)
            else:
                runs.append(run) if run else unfinished.append(name)
        elif OUTPUT_LOG in files:
            # A run of a sweep that has not come to training.
            unfinished.append(os.path.relpath(path, folder))
    if not runs and unusable:
        first, *others = unusable.values()
        also = f" (so it is with {len(others)} more)" if others else ""
        raise ValueError(f"{first.removesuffix('.')}{also}.")
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
    return runs, unfinished, unusable


def _read_run(path, name):
    """The `Run` in a folder, or None if it is unfinished."""
    config_file, results_file, history_file = (
        os.path.join(path, file)
        for file in ("config.json", "results.json", "history.csv")
    )
    content = read_json(config_file)
    config = _used(config_file, lambda: _checked_config(content))
    results = read_json(results_file)
    if results is None:
        return _diverged_run(name, config, history_file)
    if results.pop(CHECKSUM, None) != configuration_checksum(content):
        raise ValueError(
            f"{results_file} holds the results of another configuration than "
            "its config.json: remove it and run train.py again."
        )
    history = _used(history_file, lambda: _read_history(history_file))
    done, epochs = len(history.get("epoch", ())), config["epochs"]
    if done != epochs:
        raise ValueError(
            f"{history_file} must have the {epochs:,} epochs of a finished "
            f"run, got {done:,}: remove the folder and run train.py again."
        )
    run = Run(name, config, history, results)

    def look():
        # Nothing is read before it is asked for.
        arguments.number("accuracy", results["accuracy"], least=0, most=1)
        _ = run.final_window, run.window_before_decay, run.preconditioned_noise

    _used(results_file, look)
    return run


def _used(file, read):
    """What is read of a file, which is named if that cannot be used."""
    try:
        return read()
    except OSError as error:
        raise unreadable(file, error) from error
    except (csv.Error, *UNUSABLE) as error:
        reason = str(error).removesuffix(".") or type(error).__name__
        raise ValueError(
            f"{file} cannot be used ({reason:.300}): mend it, or remove the "
            "run's folder and run train.py again."
        ) from error


def _diverged_run(name, config, history_file):
    """A `Run` without results; None if its last loss is finite or unknown."""
    try:
        history = _read_history(history_file)
        # Training stops at such a loss, and nothing follows it.
        is_finite = math.isfinite(history["loss"][-1])
    except (OSError, csv.Error, *UNUSABLE):
        return None
    if is_finite or "epoch" not in history:
        return None
    return Run(name, config, history, {})


def _checked_config(content):
    config = {
        key: _hashable(value)
        for key, value in configuration.flat(content).items()
        if not isinstance(value, dict)
    }
    for key in _NEEDED:
        if key not in config:
            raise ValueError(f"it lacks `{key}`")
    optimizer_class(config["optimizer"])
    configuration.check_values(content)
    numbers = [
        tuple(map(int, re.findall(r"\d+", version)[:3]))
        for version in (str(config.get("version", "0")), __version__)
    ]
    if numbers[0] > numbers[1]:
        raise ValueError(
            f"the run was made by keras_svag {config['version']}, newer than "
            f"this keras_svag {__version__}"
        )
    return config


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _read_history(path):
    """`{column: array}` of a file of CSV; empty if it has no rows."""
    if not os.path.isfile(path):
        # Reading a pipe would wait for ever.
        raise ValueError("it is no file")
    with open(path, newline="", encoding="utf-8") as file:
        separators = [line.count(",") for line in file if line.strip()]
        if len({*separators}) > 1:
            # pandas would fill a torn line up.
            raise ValueError("not all lines have the cells of the header")
        if len(separators) < 2:
            return {}
        file.seek(0)
        header = next(filter(str.strip, file)).rstrip("\r\n").split(",")
        frame = pandas.read_csv(
            file,
            names=range(len(header)),
            dtype=np.float64,
            na_values=["NA", "nan", ""],
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            float_precision="round_trip",
        )
    columns = zip(header, frame.to_numpy().T, strict=True)
    return {name: _checked(name, numbers) for name, numbers in columns}


def _checked(name, numbers):
    sizes = np.abs(numbers)
    wrong = (sizes > arguments.LARGEST_NUMBER) & (sizes < math.inf)
    if name in _MOST:
        # False for NaN.
        wrong |= (numbers < 0) | (numbers > _MOST[name])
    if name == "epoch":
        wrong |= numbers != np.arange(len(numbers))
    if wrong.any():
        row = np.argmax(wrong)
        raise ValueError(
            f"{name} in row {row + 1} cannot be {numbers[row]:.15g}"
        )
    return numbers


def _window_of_report(report):
    saved = report["conditions"]
    for name, check in _CONDITIONS_CHECKS.items():
        check(name, saved[name])
    at_equilibrium = saved["rest"]
    if at_equilibrium not in (True, False, None):
        raise TypeError(arguments.refusal("rest", "a boolean", at_equilibrium))
    estimate = NoiseEstimate.from_dict(report["gradient_noise"])
    reasons = RunConditions.from_dict(saved).reasons(estimate)
    # A phrase that cannot be made is noticed here.
    _ = [*map(str, reasons)]
    norm = arguments.number(
        "weight_sq_norm", report["weight_sq_norm"], optional=True
    )
    return Window(
        estimate,
        math.nan if norm is None else norm,
        saved["learning_rate"],
        arguments.integer("first_epoch", report["first_epoch"]),
        arguments.integer(
            "last_epoch", report["last_epoch"], report["first_epoch"]
        ),
        reasons,
        saved["balance"],
        at_equilibrium,
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
