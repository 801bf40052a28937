"""The directory of one run: what training writes into it, and how."""

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import time
import weakref
import zipfile

import keras
from keras import ops

from experiments.checkpoint import CheckpointFolder
from experiments.process.own_files import (
    foreign,
    is_log,
    is_partial,
    remove_partial,
    replaced,
    unreadable,
)
from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.numerals import with_error
from keras_svag.scaling.optimizers import without_loss_scale
from keras_svag.version import __version__

try:
    import fcntl
except ImportError:
    fcntl = None  # Windows, where nothing keeps two processes apart.


_RUN_ID = "run_id"
_ID = re.compile(r"\w{1,64}", re.ASCII)
CHECKSUM = "configuration_checksum"  # In results.json.
_NO_SETTINGS = {"version", _RUN_ID}
_FILES = ("config.json", "history.csv", "results.json", "model.keras")
_FOLDERS = ("checkpoints", "train", "validation", "gradient_noise")
OUTPUT_LOG = "output.log"
_LONGEST_DELAY = 5  # seconds
_LONGEST_LOOK = 0.5
_MOST_NAMES = 3


class WorkDir:
    """The directory of one run: configuration, checkpoints, results.

    Nothing is written before `begin`, from which on the directory is this
    process's. `results.json` is written last: a run that has it is finished.

    A run begins in a directory that is new or empty, and replaces or removes
    nothing there but what it wrote itself. Its identity, a random number,
    tells that: `config.json` and `model.keras` hold it, and the names of the
    checkpoints. `results.json`, which is the same to the bit in every run of
    a configuration, holds the configuration's checksum. Events are written to
    files of new names. `history.csv` is made with `config.json`, and is the
    run's from then on.

    Args:
        path: the directory.
        config: dict of JSON values, the run's configuration.

    Attributes:
        run_id: the identity, a string; None before `begin` or `join`.
        checkpoints: the `CheckpointFolder` of the run.

    Raises:
        ValueError: if the directory holds a run of another configuration, or
            anything else that no run has written.
    """

    def __init__(self, path, config):
        self.path = path
        self.run_id = None
        self.checkpoints = CheckpointFolder(
            # Not a method of this object's, which must not hold itself: the
            # lock ends with it.
            self.file("checkpoints"),
            check=functools.partial(_check_ours, path),
        )
        self._config = json.loads(
            json.dumps({**config, "version": __version__})
        )
        self._identity()

    def begin(self):
        """Makes the directory, takes hold of it and writes `config.json`.

        Returns:
            The `Checkpoint` to go on from, or None.

        Raises:
            ValueError: if the directory cannot be written, or another process
                writes to it, or something in it is not this run's.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock()
            # Another process may have begun, and ended, in the meantime.
            self.run_id = self._identity() or secrets.token_hex(8)
            self._check_places()
            remove_partial(self.path)
            config = {**self._config, _RUN_ID: self.run_id}
            _write_json(self.file("config.json"), config)
            with open(self.file("history.csv"), "a", encoding="utf-8"):
                pass
        except OSError as error:
            raise unwritable(self.path, error) from error
        return self._newest()

    def join(self):
        """Reads what another process, that has begun, goes on from.

        Returns:
            The `Checkpoint`, or None.
        """
        until = time.monotonic() + _LONGEST_DELAY
        while (config := self._read_config()) is None:
            if time.monotonic() > until:
                return None
            # A network's file system may show a new file late.
            time.sleep(0.5)
        self.run_id = config[_RUN_ID]
        return self._newest()

    def check_ours(self):
        """Raises a `ValueError` if the directory is no longer this run's."""
        _check_ours(self.path, self.checkpoints.about)

    def file(self, name):
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @property
    def results(self):
        """Results of the finished run, a dict, or `None`."""
        path = self.file("results.json")
        results = read_json(path)
        if results is None:
            return None
        if results.pop(CHECKSUM, None) != configuration_checksum(self._config):
            raise foreign(path)
        return results

    @results.setter
    def results(self, results):
        results = {CHECKSUM: configuration_checksum(self._config), **results}
        with self._writing("results.json"):
            _write_json(self.file("results.json"), results)

    def save_model(self, model):
        """Writes `model.keras`, which bears the run's identity."""
        with self._writing("model.keras"):
            with replaced(self.file("model.keras")) as partial:
                model.save(partial)
                with zipfile.ZipFile(partial, "a") as archive:
                    archive.comment = self.run_id.encode()

    @contextlib.contextmanager
    def _writing(self, name):
        self.check_ours()
        try:
            self._check_places()
            yield
        except OSError as error:
            raise ValueError(
                f"{name} cannot be written to {self.path!r} "
                f"({error.strerror}); make room there and start the same "
                "command again."
            ) from error

    def _check_places(self):
        """Refuses what stands where the run writes and is not the run's."""
        for name in (*_FILES, *_FOLDERS):
            path = self.file(name)
            is_usual = os.path.isfile if name in _FILES else os.path.isdir
            if os.path.islink(path) or (
                os.path.lexists(path) and not is_usual(path)
            ):
                raise foreign(path)
            if name in _FOLDERS and os.path.isdir(path):
                if not os.access(path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, "Permission denied")
        model = self.file("model.keras")
        if os.path.exists(model) and _comment(model) != self.run_id:
            raise foreign(model)
        _ = self.results  # Refused unless they are the run's.

    def _lock(self):
        # The lock ends with the process, also if that is killed.
        if fcntl is None:
            return
        directory = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, directory)
        until = time.monotonic() + _LONGEST_LOOK
        while not _has_locked(directory, fcntl.LOCK_EX):
            # Perhaps another process just looks, as `is_locked` does.
            if time.monotonic() > until:
                raise ValueError(
                    "Another process is writing to the working directory "
                    f"{self.path!r}; wait for its end, or give another "
                    "--workdir."
                )
            time.sleep(0.02)

    def _read_config(self):
        """What `config.json` holds; None if there is none."""
        path = self.file("config.json")
        config = read_json(path)
        if config is not None:
            run_id = config.get(_RUN_ID)
            if not (isinstance(run_id, str) and _ID.fullmatch(run_id)):
                raise foreign(path)
            self._refuse_other(config)
        return config

    def _refuse_other(self, config):
        differing = self._differing(config)
        if differing:
            raise ValueError(
                f"The working directory {self.path!r} holds a run with another "
                f"configuration (it differs in {_first(differing)}); give "
                "another --workdir, or remove it."
            )

    def _differing(self, config):
        return sorted(
            key
            for key in {*self._config, *config} - _NO_SETTINGS
            if self._config.get(key) != config.get(key)
        )

    def _identity(self):
        """That of the run in the directory; None if none has begun there."""
        config = self._read_config()
        if config is not None:
            return config[_RUN_ID]
        for run_id in _checkpointed(self.checkpoints.path):
            checkpoints = CheckpointFolder(self.checkpoints.path)
            checkpoints.suffix = f".{run_id}.npz"
            found = checkpoints.newest()
            if found is not None and isinstance(
                found.about.get("config"), dict
            ):
                self._refuse_other(found.about["config"])
                return run_id
        _refuse_foreign(self.path)
        return None

    def _newest(self):
        self.checkpoints.suffix = f".{self.run_id}.npz"
        self.checkpoints.about = {_RUN_ID: self.run_id, "config": self._config}
        return self.checkpoints.newest(self._is_ours)

    def _is_ours(self, about):
        config = about.get("config")
        return (
            about.get(_RUN_ID) == self.run_id
            and isinstance(config, dict)
            and not self._differing(config)
        )


def configuration_checksum(config):
    """That of the settings in a run's configuration, a dict."""
    settings = {k: v for k, v in config.items() if k not in _NO_SETTINGS}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checkpointed(folder):
    """Identities of the runs whose checkpoints lie in a folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    parts = (name.split(".") for name in names if name.startswith("step-"))
    found = {part[1] for part in parts if part[2:] == ["npz"]}
    return sorted(filter(_ID.fullmatch, found))


def _comment(path):
    """The comment of an archive, "" if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode(errors="replace")
    except (zipfile.BadZipFile, NotImplementedError):
        return ""


def _refuse_foreign(path):
    """Refuses a directory in which somebody else has put something."""
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from error
    found = [
        name
        for name in names
        if not is_partial(name)
        and not (name == OUTPUT_LOG and is_log(os.path.join(path, name)))
    ]
    if found:
        shown = _first(map(repr, found))
        raise ValueError(
            f"The working directory {path!r} must be new, empty or that of a "
            f"run of train.py, which has a config.json, but it holds {shown}; "
            "give another --workdir."
        )


def _first(names):
    """The first of some names, which somebody else may have made."""
    names = list(names)
    shown = ", ".join(f"{name:.60}" for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _check_ours(path, about):
    config = read_json(os.path.join(path, "config.json"))
    if config is None or config.get(_RUN_ID) != about.get(_RUN_ID):
        raise ValueError(
            f"The working directory {path!r} is no longer this run's: its "
            "config.json was removed, or another run has begun there; nothing "
            "more is written to it. Give another --workdir to train this one."
        )


class FolderCheck(keras.callbacks.Callback):
    """Ends training when its working directory was given to another run.

    Put it before the callbacks that write there.

    Args:
        workdir: a `WorkDir` that has begun.
    """

    def __init__(self, workdir):
        super().__init__()
        self._workdir = workdir

    def on_epoch_begin(self, epoch, logs=None):
        self._workdir.check_ours()

    def on_test_begin(self, logs=None):
        self._workdir.check_ours()

    def on_epoch_end(self, epoch, logs=None):
        self._workdir.check_ours()


@contextlib.contextmanager
def locked(path):
    """Context in which a directory `is_locked`, where that can be."""
    directory = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            _has_locked(directory, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl:
            os.close(directory)


def is_locked(path):
    """Whether a process writes to a directory, as a run does to its own."""
    if fcntl is None:
        return False
    try:
        directory = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that of two that look at once none sees the other.
        return not _has_locked(directory, fcntl.LOCK_SH)
    finally:
        os.close(directory)


def _has_locked(directory, kind):
    try:
        fcntl.flock(directory, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks.
    return True


class HistoryFile(keras.callbacks.Callback):
    """Writes the logs of every epoch to a CSV file, a row each.

    A column that first appears in a later epoch is filled with `NA` before.
    Put it after the callbacks that add to the logs.

    Args:
        path: path of the file. What it holds of an earlier training is
            replaced by what `load_state_dict` brings back.
    """

    def __init__(self, path):
        super().__init__()
        self._path = path
        self._rows = []
        self._columns = []

    def on_train_begin(self, logs=None):
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, **(logs or {})}
        self._rows.append(row)
        if set(row) <= set(self._columns):
            self._writer().writerow(row)
            self._replace()
        else:
            self._write()

    def state_dict(self):
        """The rows so far, as a value of JSON."""
        return {"rows": self._rows}

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned; rewrites the file."""
        rows = list(state["rows"])
        for row in rows:
            arguments.integer("epoch", row["epoch"], least=0)
            for name, value in row.items():
                if not arguments.is_number(value):
                    raise TypeError(arguments.refusal(name, "a number", value))
        self._rows = rows
        self._write()

    def _write(self):
        names = {name for row in self._rows for name in row} - {"epoch"}
        self._columns = ["epoch", *sorted(names)]
        self._text = io.StringIO(newline="")
        self._writer().writeheader()
        self._writer().writerows(self._rows)
        self._replace()

    def _replace(self):
        with (
            replaced(self._path) as partial,
            open(partial, "x", encoding="utf-8", newline="") as file,
        ):
            file.write(self._text.getvalue())

    def _writer(self):
        return csv.DictWriter(self._text, self._columns, restval="NA")


class TrainingClock(keras.callbacks.Callback):
    """Adds SGD's clock to the logs of each epoch.

    `learning_rate` is that of the epoch's first step, `effective_step` counts
    the SGD steps done, which for any optimizer but `SVAG` are its own. With
    `SVAG` there is also `continuous_time`, that of the SDE. Put it before the
    callbacks that read the logs.
    """

    def on_epoch_begin(self, epoch, logs=None):
        rate = self._optimizer.learning_rate
        self._learning_rate = float(ops.convert_to_numpy(rate))

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self._optimizer
        logs["learning_rate"] = self._learning_rate
        if not hasattr(optimizer, "continuous_time"):
            logs["effective_step"] = float(
                ops.convert_to_numpy(optimizer.iterations)
            )
        else:
            logs["effective_step"] = optimizer.effective_iterations
            logs["continuous_time"] = float(
                ops.convert_to_numpy(optimizer.continuous_time)
            )

    def state_dict(self):
        """What an epoch that has begun needs, as a value of JSON."""
        return {"learning_rate": self._learning_rate}

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned."""
        self._learning_rate = float(state["learning_rate"])

    @property
    def _optimizer(self):
        return without_loss_scale(self.model.optimizer)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops training when the loss is not finite.

    Attributes:
        step: number of the step after which that was seen, counted from 1 over
            all epochs, or `None`.
    """

    def __init__(self):
        super().__init__()
        self.step = None

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            iterations = self.model.optimizer.iterations
            self.step = int(ops.convert_to_numpy(iterations))
            self.model.stop_training = True


def results_table(results):
    """What a run has reached, what it measured and what follows from it.

    Args:
        results: the dict that `train.py` writes to `results.json`.

    Raises:
        ValueError: if they lack what a finished run has.
    """
    try:
        rows = [("test accuracy", f"{results['accuracy']:.2%}")]
        noise, report = map(results.get, ("gradient_noise", "linear_scaling"))
        if noise:
            estimate = NoiseEstimate.from_dict(noise)
            n_label = f"N = Tr Σ at batch size {estimate.batch_size}"
            for name, key in (
                ("G = |∇L|²", "grad_sq_norm"),
                (n_label, "noise_trace"),
                ("N/G", "noise_to_signal"),
            ):
                value = getattr(estimate, key), getattr(estimate, f"{key}_se")
                rows.append((name, with_error(*value)))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if noise:
            epochs = "the last epoch"
            if report and report["first_epoch"] < report["last_epoch"]:
                epochs = "epochs {first_epoch} to {last_epoch}".format(**report)
            lines.append(f"(noise over {epochs}, ± one standard error)")
        if report:
            lines += ["", report["text"]]
        return "\n".join(lines)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"results.json lacks what a finished run has ({error}); remove it "
            "and start the same command again."
        ) from error


def unwritable(path, error):
    """The `ValueError` about a working directory, of an `OSError`."""
    return ValueError(
        f"The working directory {path!r} cannot be written "
        f"({error.strerror}); give another --workdir."
    )


def read_json(path):
    """The dict that a file holds; None if there is no such file.

    Raises:
        ValueError: if it cannot be read, or holds something else.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # Opening a named pipe would wait for ever.
            raise ValueError("it is no file")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); move it away or remove it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {content!r:.100}; move it "
            "away or remove it."
        )
    return content


def _write_json(path, value):
    with (
        replaced(path) as partial,
        open(partial, "x", encoding="utf-8") as file,
    ):
        json.dump(value, file, indent=2)
        file.write("\n")
