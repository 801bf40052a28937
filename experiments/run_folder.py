"""The directory of one run: what training writes into it, and how."""

import functools
import hashlib
import json
import os
import time
import weakref
import zipfile

import keras

from experiments.checkpoint import CheckpointFolder
from experiments.process.locks import lock
from experiments.process.own_files import (
    foreign,
    is_log,
    is_partial,
    remove_partial,
    replaced,
    unreadable,
)
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.numerals import with_error
from keras_svag.version import __version__

CHECKSUM = "configuration_checksum"  # In results.json.
OUTPUT_LOG = "output.log"
_LONGEST_DELAY = 5  # seconds
_LONGEST_LOOK = 0.5
_MOST_NAMES = 3


class WorkDir:
    """The directory of one run: configuration, checkpoints, results.

    Nothing is written before `begin`, from which on the directory is this
    process's. `results.json` is written last: a run that has it is finished.

    A directory that is new or empty is anyone's, later `config.json` says whose
    it is; if that is lost, the names of the checkpoints do, which hold a
    checksum of the configuration. Another run's is refused by a `ValueError`.
    """

    def __init__(self, path, config):
        self.path = path
        self._config = json.loads(
            json.dumps({**config, "version": __version__})
        )
        self._checksum = configuration_checksum(self._config)
        # No method: the lock ends with this object, which must not hold itself.
        self.check_ours = functools.partial(_check_ours, path, self._config)
        self.checkpoints = CheckpointFolder(
            self.file("checkpoints"), self._checksum, self.check_ours
        )
        self._check_whose()

    def begin(self):
        """Begins the run; returns the `Checkpoint` to go on from, or None."""
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

    def check_at_epochs(self):
        """A callback that ends training if another run has begun here."""
        moments = "on_epoch_begin", "on_test_begin", "on_epoch_end"
        check = dict.fromkeys(moments, lambda *_: self.check_ours())
        return keras.callbacks.LambdaCallback(**check)

    def join(self):
        """The `Checkpoint` that another process goes on from, or None."""
        until = time.monotonic() + _LONGEST_DELAY
        while not self.has_begun and time.monotonic() < until:
            # A network's file system may show a new file late.
            time.sleep(0.5)
        return self.checkpoints.newest()

    @property
    def has_begun(self):
        """Whether the directory has a run's `config.json`."""
        return os.path.exists(self.file("config.json"))

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

    def finish(self, model, results):
        """Writes `model.keras`, and then `results.json`."""
        self.check_ours()
        self._check_places()
        results = {CHECKSUM: self._checksum, **results}
        with replaced(self.file("model.keras")) as partial:
            model.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.comment = self._checksum.encode()
        _write_json(self.file("results.json"), results)
        self.checkpoints.remove()

    def _check_whose(self):
        config = read_json(self.file("config.json"))
        if config is not None:
            keys = {*self._config, *config} - {"version"}
            differing = [
                key
                for key in sorted(keys)
                if self._config.get(key) != config.get(key)
            ]
            if differing:
                raise ValueError(
                    f"The working directory {self.path!r} holds a run with "
                    f"another configuration (it differs in {_first(differing)})"
                    "; give another --workdir, or remove it."
                )
        elif not self.checkpoints.steps() and (found := self._foreign_names()):
            raise ValueError(
                f"The working directory {self.path!r} must be new, empty or "
                "that of a run of train.py, which has a config.json, but it "
                f"holds {_first(found)}; give another --workdir."
            )

    def _check_places(self):
        """Refuses a model or results that are not the run's."""
        _ = self.results
        path = self.file("model.keras")
        try:
            with zipfile.ZipFile(path) as archive:
                is_ours = archive.comment == self._checksum.encode()
        except (zipfile.BadZipFile, OSError):
            is_ours = not os.path.lexists(path)
        if not is_ours:
            raise foreign(path)

    def _foreign_names(self):
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unwritable(self.path, error) from error
        return [
            repr(name)
            for name in names
            if not is_partial(name)
            and not (name == OUTPUT_LOG and is_log(self.file(name)))
        ]

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


def _first(names):
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


def results_table(results):
    """What a run has reached, what it measured and what follows from it."""
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


def unwritable(path, error):
    """The `ValueError` about a working directory, of an `OSError`."""
    return ValueError(
        f"The working directory {path!r} cannot be written "
        f"({error.strerror}); give another --workdir."
    )


def read_json(path):
    """The dict that a file holds; None if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError(f"it holds no JSON object, but {content!r:.100}")
        return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); move it away or remove it."
        ) from error


def _write_json(path, value):
    with (
        replaced(path) as partial,
        open(partial, "x", encoding="utf-8") as file,
    ):
        json.dump(value, file, indent=2)
        file.write("\n")
