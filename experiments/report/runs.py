"""Finds and reads the runs that `train.py` has written below a folder."""

import dataclasses
import functools
import io
import math
import os
import re

import numpy as np
import pandas

from experiments.optimizers import optimizer_class
from experiments.process.own_files import unreadable
from experiments.run_folder import (
    CHECKSUM,
    configuration_checksum,
    read_json,
)
from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.closeness import EquilibriumStatistics
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.reasons import Reason
from keras_svag.version import __version__

_DEEPEST_CONFIG = 20

_nonnegative = functools.partial(arguments.number, least=0)

# What a report calculates with.
_CONFIG_CHECKS = {
    "optimizer": lambda _, name: optimizer_class(name),
    "batch_size": arguments.integer,
    "epochs": arguments.integer,
    "ell": arguments.integer,
    "learning_rate": _nonnegative,
    "weight_decay": _nonnegative,
    "seed": functools.partial(arguments.integer, least=0),
    "lsr.closeness": functools.partial(arguments.number, above=1),
}
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
        elif "output.log" in files:
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
    for file in (config_file, results_file, history_file):
        # Reading a pipe would wait for ever.
        if os.path.exists(file) and not os.path.isfile(file):
            raise ValueError(f"{file} is no file: remove it.")
    content = _read_config(path, config_file)
    config = flat(content)
    results = read_json(results_file)
    if results is None:
        return _diverged_run(name, config, history_file)
    if results.pop(CHECKSUM, None) != configuration_checksum(content):
        raise ValueError(
            f"{results_file} holds the results of another configuration than "
            "its config.json: remove it and run train.py again."
        )
    accuracy = results.get("accuracy")
    if not (arguments.is_number(accuracy) and 0 <= accuracy <= 1):
        raise ValueError(
            f"{results_file} has no accuracy: remove it and run train.py again."
        )
    history = _read_history(history_file, is_finished=True)
    done, epochs = len(history.get("epoch", ())), config["epochs"]
    if done != epochs:
        raise ValueError(
            f"{history_file} must have the {epochs:,} epochs of a finished "
            f"run, got {done:,}: remove the folder and run train.py again."
        )
    run = Run(name, config, history, results)
    try:
        _refuse_huge_numbers(results)
        # Nothing is read before it is asked for.
        _ = run.final_window, run.window_before_decay, run.preconditioned_noise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{results_file} lacks what a report needs ({_clause(error)}): "
            "remove it and run train.py again."
        ) from error
    return run


def _diverged_run(name, config, history_file):
    """A `Run` without results; None if its last loss is finite or unknown."""
    try:
        history = _read_history(history_file)
    except ValueError:
        # It may be written at this moment.
        return None
    losses = history.get("loss", np.empty(0))
    # Training stops at such a loss, and nothing follows it.
    diverged = len(losses) and not math.isfinite(losses[-1])
    if not diverged or "epoch" not in history:
        return None
    return Run(name, config, history, {})


def _read_config(path, config_file):
    try:
        content = read_json(config_file)
        if content is None:
            raise ValueError("it leads nowhere")
        _refuse_huge_numbers(content)
        config = flat(content)
        for key, check in _CONFIG_CHECKS.items():
            if key not in config:
                raise ValueError(f"it lacks `{key}`")
            check(key, config[key])
        _refuse_newer(path, config)
    except (TypeError, ValueError) as error:
        if config_file in str(error):
            raise
        raise ValueError(
            f"{config_file} cannot be used ({_clause(error)}): mend it, or "
            "remove the run's folder."
        ) from error
    return content


def _clause(error):
    return str(error).removesuffix(".")


def _refuse_huge_numbers(content, depth=0):
    """Refuses content of JSON with numbers that no run has, or too deep."""
    if depth > _DEEPEST_CONFIG:
        raise ValueError(f"it is nested more than {_DEEPEST_CONFIG} deep")
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list):
        content = [content]
    for value in content:
        if isinstance(value, (dict, list)):
            _refuse_huge_numbers(value, depth + 1)
        # An integer may be too large for a float.
        elif arguments.is_number(value) and (
            arguments.LARGEST_NUMBER < abs(value) < math.inf
        ):
            raise ValueError(
                f"it holds a number beyond {arguments.LARGEST_NUMBER:g}, got "
                f"{str(value):.20}"
            )


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
    numbers = [
        tuple(map(int, re.findall(r"\d+", version)[:3]))
        for version in (str(config.get("version", "0")), __version__)
    ]
    if numbers[0] > numbers[1]:
        raise ValueError(
            f"The run in {path!r} was made by keras_svag {config['version']}, "
            f"newer than this keras_svag {__version__}: install that version "
            "to report on it."
        )


def _read_history(path, is_finished=False):
    """`{column: array}` of a file of CSV; empty if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if is_finished and not text.endswith("\n"):
            raise ValueError("its last line is torn")
        # The run was killed while it was written, or is writing it.
        text = text[: text.rfind("\n") + 1]
        header, _, rows = text.partition("\n")
        if not rows:
            return {}
        if '"' not in header and rows.count(",") != header.count(
            ","
        ) * rows.count("\n"):
            raise ValueError("not all lines have the cells of the header")
        frame = pandas.read_csv(
            io.StringIO(text),
            dtype=np.float64,
            keep_default_na=False,
            na_values=["NA", "nan", ""],
        )
        for name in frame:
            _check_numbers(frame[name].to_numpy(), name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({_clause(error)}); remove the run's "
            "folder."
        ) from error
    return {name: frame[name].to_numpy() for name in frame}


def _check_numbers(numbers, name):
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
