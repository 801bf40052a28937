"""The directory of one run: what training writes into it, and how."""

import contextlib
import csv
import json
import math
import os
import shutil
import weakref

import keras
from keras import ops

from keras_svag.models.internals import inner_optimizer
from keras_svag.version import __version__

try:
    import fcntl
except ImportError:
    fcntl = None  # Windows, where nothing keeps two processes apart.


class WorkDir:
    """The directory of one run: its configuration, its results.

    Nothing is written before `begin`, from which on the directory is this
    process's. `results.json` is written last: a run that has it is finished.

    Args:
        path: the directory.
        config: dict of JSON values, the run's configuration.

    Raises:
        ValueError: if the directory holds a run of another configuration.
    """

    def __init__(self, path, config):
        self.path = path
        self._config = json.loads(
            json.dumps({**config, "version": __version__})
        )
        self._refuse_other_run()

    def begin(self, keep_events=False):
        """Makes the directory, takes hold of it and writes `config.json`.

        Args:
            keep_events: whether what an unfinished run left there of its
                events stays, because it goes on.

        Raises:
            ValueError: if the directory cannot be written, or another process
                writes to it.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock()
            _write_json(self.file("config.json"), self._config)
        except OSError as error:
            raise unwritable(self.path, error) from error
        if keep_events:
            return
        for name in ("train", "validation", "linear_scaling"):
            shutil.rmtree(self.file(name), ignore_errors=True)

    def file(self, name):
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @property
    def results(self):
        """Results of the finished run, a dict, or `None`."""
        return read_json(self.file("results.json"))

    @results.setter
    def results(self, results):
        try:
            _write_json(self.file("results.json"), results)
        except OSError as error:
            raise ValueError(
                f"The results cannot be written to {self.path!r} "
                f"({error.strerror}); make room there and start the same "
                "command again."
            ) from error

    def _lock(self):
        # The lock ends with the process, also if that is killed.
        if fcntl is None:
            return
        directory = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, directory)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "Another process is writing to the working directory "
                f"{self.path!r}; wait for its end, or give another --workdir."
            ) from None
        except OSError:
            pass  # A file system without locks.

    def _refuse_other_run(self):
        other = read_json(self.file("config.json"))
        if other is None:
            return
        differing = sorted(
            key
            for key in {*self._config, *other} - {"version"}
            if self._config.get(key) != other.get(key)
        )
        if differing:
            raise ValueError(
                f"The working directory {self.path!r} holds a run with another "
                f"configuration (it differs in {', '.join(differing)}); give "
                "another --workdir, or remove it."
            )


def is_locked(path):
    """Whether a process writes to a run's directory."""
    if fcntl is None:
        return False
    try:
        directory = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that of two that look at once none sees the other.
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(directory)
    return False


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
        if not set(row) <= set(self._columns):
            self._write()
            return
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            self._writer(file).writerow(row)

    def state_dict(self):
        """The rows so far, as a value of JSON."""
        return {"rows": self._rows}

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned; rewrites the file."""
        self._rows = list(state["rows"])
        self._write()

    def _write(self):
        names = {name for row in self._rows for name in row} - {"epoch"}
        self._columns = ["epoch", *sorted(names)]
        with _replaced(self._path) as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(self._rows)

    def _writer(self, file):
        return csv.DictWriter(file, self._columns, restval="NA")


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
        self._learning_rate = state["learning_rate"]

    @property
    def _optimizer(self):
        return inner_optimizer(self.model.optimizer)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops training when the loss is not finite.

    Attributes:
        step: number of the step after which that was seen, counted from 1 over
            all epochs, or `None`.
    """

    def __init__(self):
        super().__init__()
        self.step = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.step = self._epoch * self.params["steps"] + batch + 1
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
        noise = results.get("gradient_noise")
        if noise:
            n_label = f"N = Tr Σ at batch size {noise['batch_size']}"
            for name, key in (
                ("G = |∇L|²", "grad_sq_norm"),
                (n_label, "noise_trace"),
                ("N/G", "noise_to_signal"),
            ):
                value = _with_error(noise[key], noise[f"{key}_se"])
                rows.append((name, value))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if noise:
            lines.append("(noise over the last epoch, ± one standard error)")
        if "linear_scaling" in results:
            lines += ["", results["linear_scaling"]["text"]]
        return "\n".join(lines)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"results.json lacks what a finished run has ({error}); remove it "
            "and start the same command again."
        ) from error


def _with_error(value, error):
    if value is None:
        return "not measured"
    return f"{value:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"


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
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {content!r:.100}; remove it."
        )
    return content


def _write_json(path, value):
    with _replaced(path) as file:
        json.dump(value, file, indent=2)
        file.write("\n")


@contextlib.contextmanager
def _replaced(path):
    """A file that takes the place of the one at `path` when it is whole."""
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise
