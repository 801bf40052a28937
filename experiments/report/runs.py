"""Finds and reads the runs that `train.py` has written below a folder."""

import contextlib
import dataclasses
import math
import os

import numpy as np
import pandas

from experiments import config as configuration
from experiments import run_folder
from experiments.optimizers import is_svag, optimizer_class
from experiments.process.own_files import unreadable
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.report import ScalingReport
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.reasons import Reason
from keras_svag.scaling.verdict import ScalingVerdict
from keras_svag.version import __version__


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run that has come to its end.

    Attributes:
        name: Path of its folder below the one that was searched.
        config: `{key: value}` with dots for what is nested, `"model.name"`.
        history: Frame with a row an epoch, NaN where nothing was measured.
        accuracy: Of the test data, at the end; 0 if it diverged.
        diverged: Whether it stopped at a loss that was not finite.
        final_window: `ScalingReport` on the end of the run, with the plain
            noise whatever the optimizer; None without.
        preconditioned_noise: That in the norm of an adaptive optimizer.
    """

    name: str
    config: dict
    history: pandas.DataFrame
    accuracy: float = 0.0
    diverged: bool = False
    final_window: ScalingReport | None = None
    preconditioned_noise: NoiseEstimate | None = None

    @property
    def window_before_decay(self):
        """The window whose learning rate is nearest to the configured one."""
        final, configured = self.final_window, self.config["learning_rate"]
        if final is None or self.preconditioned_noise:
            return final

        # Of equally near ones the last: `min` keeps the first that it meets.
        return min(
            reversed(final.stretches),
            key=lambda w: round(abs(w.verdict.learning_rate - configured), 9),
        )

    @property
    def ell(self):
        """The amplification of SVAG and its kin; 1 for other optimizers."""
        return self.config["ell"] if is_svag(self.config["optimizer"]) else 1

    def curve(self, column):
        """A column of the history; NaN throughout if there is none."""
        nothing = pandas.Series(math.nan, self.history.index)
        return self.history.get(column, nothing).to_numpy()


def find_runs(folder):
    """`(runs, unfinished, unusable)` in a folder and the folders below it.

    These are `Run`s, names of folders, and `{name: why a file in it cannot be
    used}`. A folder with a `config.json` holds a run. One with `results.json`
    is finished; one whose last loss is not finite has diverged and counts too.
    A `ValueError` tells why there is none.
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
        # A run of a sweep that has not come to training has a log alone.
        if {"config.json", run_folder.OUTPUT_LOG}.isdisjoint(files):
            continue
        name = os.path.relpath(path, folder)
        try:
            run = _read_run(path, name)
            runs.append(run) if run else unfinished.append(name)
        except ValueError as error:
            unusable[name] = str(error)
    if runs:
        return runs, unfinished, unusable
    if unusable:
        first, *others = unusable.values()
        also = f" (so it is with {len(others)} more)" if others else ""
        raise ValueError(f"{first.removesuffix('.')}{also}.")
    raise ValueError(
        f"None of the runs in {folder!r} is finished "
        f"({', '.join(unfinished)}): start train.py again with the same "
        "--workdir."
        if unfinished
        else "WORKDIR must hold runs of train.py, but no config.json is in "
        f"{folder!r} or below."
    )


def _read_run(path, name):
    """The `Run` in a folder, or None if it is unfinished."""
    config_file = os.path.join(path, "config.json")
    results_file = os.path.join(path, "results.json")
    history_file = os.path.join(path, "history.csv")
    content = run_folder.read_json(config_file)
    if content is None:
        return None
    with _used(config_file):
        config = _checked(content)
        checksum = run_folder.configuration_checksum(content)
    results = run_folder.read_json(results_file)
    if results is None:
        # Training stops at a loss that is not finite, and nothing follows it.
        with contextlib.suppress(OSError, LookupError, ValueError):
            history = _read_history(history_file)
            if not np.isfinite(history["loss"].iloc[-1]):
                return Run(name, config, history, diverged=True)
        return None
    if results.get(run_folder.CHECKSUM) != checksum:
        raise ValueError(
            f"{results_file} holds the results of another configuration than "
            "its config.json: remove it and run train.py again."
        )
    with _used(history_file):
        history = _read_history(history_file)
        epochs = config["epochs"]
        if [*history.get("epoch", ())] != [*range(epochs)]:
            raise ValueError(f"it has not the {epochs:,} epochs of the run")
    with _used(results_file):
        noise = _noise(results, history)
        accuracy = float(results["accuracy"])
        return Run(name, config, history, accuracy, False, *noise)


@contextlib.contextmanager
def _used(file):
    """Names a file of which the content cannot be used, whatever is wrong."""
    try:
        yield
    except OSError as error:
        raise unreadable(file, error) from error
    except Exception as error:
        reason = str(error).removesuffix(".") or type(error).__name__
        raise ValueError(
            f"{file} cannot be used ({reason:.300}): mend it, or remove the "
            "run's folder and run train.py again."
        ) from error


def _checked(content):
    configuration.check_complete(content)
    configuration.check_values(content)
    optimizer_class(content["optimizer"])
    version = content.get("version", "0")
    made, here = ([*map(int, v.split("."))] for v in (version, __version__))
    if made > here:
        raise ValueError(
            f"the run was made by keras_svag {version}, newer than this "
            f"keras_svag {__version__}"
        )
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in configuration.flat(content).items()
        if not isinstance(value, dict)
    }


def _read_history(path):
    with open(path, encoding="utf-8") as file:
        if len({line.count(",") for line in file}) > 1:
            # pandas would fill a torn line up.
            raise ValueError("not all lines have the cells of the header")
    return pandas.read_csv(path, dtype=float)


def _noise(results, history):
    """A `Run`'s final window and its preconditioned noise."""
    noise, report = map(results.get, ("gradient_noise", "linear_scaling"))
    if not noise:
        return None, None
    if report:
        # The noise of the report may be in the norm of the optimizer.
        final = ScalingReport.from_dict({**report, "gradient_noise": noise})
        conditions = final.verdict.conditions
        if conditions.adaptive and conditions.optimizer.second_moments:
            return final, NoiseEstimate.from_dict(report["gradient_noise"])
        return final, None
    end, last = history.iloc[-1], len(history)
    verdict = ScalingVerdict(
        NoiseEstimate.from_dict(noise),
        RunConditions(learning_rate=end["learning_rate"]),
        reasons=(Reason("equilibrium_unknown"),),
    )
    norm = end.get("weight_sq_norm", math.nan)
    return ScalingReport(verdict, last, last, norm), None
