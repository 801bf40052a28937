"""The directory of one run: what training writes into it, and how."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import time
import weakref
import zipfile

import keras

from experiments.checkpoint import CheckpointFolder
from experiments.process.locks import lock
from experiments.process.own_files import (
    UNUSABLE,
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
from keras_svag.version import __version__

CHECKSUM = "configuration_checksum"  # In results.json.
OUTPUT_LOG = "output.log"
# What a run has in its directory, and of what kind it is.
_PLACES = {
    **dict.fromkeys(
        ("config.json", "history.csv", "results.json", "model.keras"),
        os.path.isfile,
    ),
    **dict.fromkeys(
        ("checkpoints", "train", "validation", "gradient_noise"),
        os.path.isdir,
    ),
}
_LONGEST_DELAY = 5  # seconds
_LONGEST_LOOK = 0.5
_MOST_NAMES = 3


class WorkDir:
    """The directory of one run: configuration, checkpoints, results.

    Nothing is written before `begin`, from which on the directory is this
    process's. `results.json` is written last: a run that has it is finished.

    A run begins in a directory that is new or empty, and replaces or removes
    nothing there but what it wrote itself, which a checksum of its
    configuration tells: `results.json`, `model.keras` and the names of the
    checkpoints have it. Events are written to files of new names.
    `history.csv` is the run's once there is a `config.json`.

    Args:
        path: the directory.
        config: dict of JSON values, the run's configuration.

    Attributes:
        checkpoints: the `CheckpointFolder` of the run.

    Raises:
        ValueError: if the directory holds a run of another configuration, or
            anything else that no run has written.
    """

    def __init__(self, path, config):
        self.path = path
        self._config = json.loads(
            json.dumps({**config, "version": __version__})
        )
        self._checksum = configuration_checksum(self._config)
        self.checkpoints = CheckpointFolder(
            self.file("checkpoints"),
            self._checksum,
            # Not a method of this object's, which must not hold itself: the
            # lock ends with it.
            check=functools.partial(_check_ours, path, self._config),
        )
        self._check_whose()

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
            self._check_whose()
            self._check_places()
            remove_partial(self.path)
            _write_json(self.file("config.json"), self._config)
        except OSError as error:
            raise unwritable(self.path, error) from error
        return self.checkpoints.newest()

    def join(self):
        """Reads what another process, that has begun, goes on from.

        Returns:
            The `Checkpoint`, or None.
        """
        until = time.monotonic() + _LONGEST_DELAY
        while not self.has_begun and time.monotonic() < until:
            # A network's file system may show a new file late.
            time.sleep(0.5)
        return self.checkpoints.newest()

    @property
    def has_begun(self):
        """Whether the directory has a run's `config.json`."""
        return os.path.exists(self.file("config.json"))

    def check_ours(self):
        """Raises a `ValueError` if the directory is no longer this run's."""
        _check_ours(self.path, self._config)

    def file(self, name):
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @property
    def results(self):
        """Results of the finished run, a dict, or `None`."""
        path = self.file("results.json")
        results = read_json(path)
        if results is not None and results.pop(CHECKSUM, "") != self._checksum:
            raise foreign(path)
        return results

    @results.setter
    def results(self, results):
        with self._writing("results.json") as path:
            _write_json(path, {CHECKSUM: self._checksum, **results})

    def save_model(self, model):
        """Writes `model.keras`, whose archive bears the run's checksum."""
        with self._writing("model.keras") as path, replaced(path) as partial:
            model.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.comment = self._checksum.encode()

    @contextlib.contextmanager
    def _writing(self, name):
        self.check_ours()
        try:
            self._check_places()
            yield self.file(name)
        except OSError as error:
            raise ValueError(
                f"{name} cannot be written to {self.path!r} "
                f"({error.strerror}); make room there and start the same "
                "command again."
            ) from error

    def _check_whose(self):
        """Refuses a directory that is neither new nor this run's."""
        config = read_json(self.file("config.json"))
        if config is not None:
            self._refuse_other(config)
        elif not self.checkpoints.steps():
            _refuse_foreign(self.path)

    def _refuse_other(self, config):
        differing = sorted(
            key
            for key in {*self._config, *config} - {"version"}
            if self._config.get(key) != config.get(key)
        )
        if differing:
            raise ValueError(
                f"The working directory {self.path!r} holds a run with another "
                f"configuration (it differs in {_first(differing)}); give "
                "another --workdir, or remove it."
            )

    def _check_places(self):
        """Refuses what stands where the run writes and is not the run's."""
        for name, is_usual in _PLACES.items():
            path = self.file(name)
            if not os.path.lexists(path):
                continue
            if os.path.islink(path) or not is_usual(path):
                raise foreign(path)
            if not os.access(path, os.W_OK | os.X_OK * os.path.isdir(path)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        model = self.file("model.keras")
        if os.path.exists(model) and _comment(model) != self._checksum:
            raise foreign(model)
        _ = self.results  # Refused unless they are the run's.

    def _lock(self):
        until = time.monotonic() + _LONGEST_LOOK
        while (directory := lock(self.path)) is None:
            # Perhaps another process just looks, as `is_locked` does.
            if time.monotonic() > until:
                raise ValueError(
                    "Another process is writing to the working directory "
                    f"{self.path!r}; wait for its end, or give another "
                    "--workdir."
                )
            time.sleep(0.02)
        weakref.finalize(self, os.close, directory)


def configuration_checksum(config):
    """That of the settings in a run's configuration, a dict."""
    settings = {k: v for k, v in config.items() if k != "version"}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def _check_ours(path, config):
    if read_json(os.path.join(path, "config.json")) != config:
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

    def _check(self, *_):
        self._workdir.check_ours()

    on_epoch_begin = on_test_begin = on_epoch_end = _check


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
    except UNUSABLE as error:
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
            content = json.load(
                file,
                parse_int=functools.partial(_number, int),
                parse_float=functools.partial(_number, float),
            )
        if not isinstance(content, dict):
            raise ValueError(f"it holds no JSON object, but {content!r:.100}")
        return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); move it away or remove it."
        ) from error


def _number(kind, text):
    number = kind(text)
    if arguments.LARGEST_NUMBER < abs(number) < math.inf:
        raise ValueError(
            f"it holds a number beyond {arguments.LARGEST_NUMBER:g}, {text:.20}"
        )
    return number


def _write_json(path, value):
    with (
        replaced(path) as partial,
        open(partial, "x", encoding="utf-8") as file,
    ):
        json.dump(value, file, indent=2)
        file.write("\n")
