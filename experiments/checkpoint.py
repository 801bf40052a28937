"""A training state, saved and restored exactly."""

import contextlib
import dataclasses
import io
import json
import os
import re
import warnings
import zipfile

import keras
import numpy as np
from keras import ops

from experiments.datasets import STREAMS_VERSIONS
from experiments.process.own_files import remove_partial, replaced, unreadable
from keras_svag import backend

_ABOUT, _STATE = "about", "state"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved after a number of training steps.

    Attributes:
        step: that number.
        arrays: list of arrays.
        state: a value of JSON.
        about: dict of JSON values, of what run it is.
        suffix: what follows the step in the name of its file.
    """

    step: int
    arrays: list
    state: object
    about: dict = dataclasses.field(default_factory=dict)
    suffix: str = ".npz"

    @property
    def file_name(self):
        """Name of its file in the `CheckpointFolder`."""
        return f"step-{self.step}{self.suffix}"

    @property
    def states(self):
        """States of callbacks by the names of their classes.

        Raises:
            ValueError: if the checkpoint holds something else.
        """
        if not isinstance(self.state, dict):
            raise self._unusable("states of callbacks", repr(self.state))
        return self.state

    def restore(self, callbacks):
        """Gives callbacks what they remembered, if they have `load_state_dict`.

        Raises:
            ValueError: if one of them cannot use it.
        """
        for callback in callbacks:
            name = type(callback).__name__
            if name not in self.states or not hasattr(
                callback, "load_state_dict"
            ):
                continue
            try:
                callback.load_state_dict(self.states[name])
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RecursionError,
                TypeError,
                ValueError,
            ) as error:
                reason = str(error).removesuffix(".") or type(error).__name__
                raise self._unusable(f"state of {name}", reason) from error

    def _unusable(self, what, reason):
        return ValueError(
            f"The checkpoint {self.file_name} holds no {what} that can be used "
            f"({reason:.300}): remove the file to go on from the one before."
        )


class CheckpointFolder:
    """A folder of the last checkpoints of a run, a file each.

    A file is written under another name, flushed to the disk and renamed, so
    that a process killed at any moment leaves whole files; the archive's
    checksums tell one that was damaged later. Nothing is pickled.

    Its files are those named `step-N` and the suffix. All others in the
    folder are left as they are.

    Args:
        path: the folder; it is made when the first checkpoint is saved.
        keep: how many checkpoints are kept, at least 1.
        check: function of `about`, called before a checkpoint is saved; it
            raises if the folder must not be written to.

    Attributes:
        about: dict of JSON values that is saved with each checkpoint.
        suffix: string, what follows the step in the names of the files.
    """

    def __init__(self, path, keep=3, check=lambda about: None):
        self.path = path
        self.about = {}
        self.suffix = ".npz"
        self._keep = keep
        self._check = check
        self._useless = set()

    def save(self, step, arrays, state):
        """Writes a checkpoint, then removes the oldest ones.

        Args:
            step: integer, how many training steps were done.
            arrays: list of NumPy arrays.
            state: a value of JSON.

        Raises:
            ValueError: if it cannot be written; nothing is left of it, and
                the earlier checkpoints stay.
        """
        self._check(self.about)
        path = self._file(step)
        about = {**self.about, "step": step, "num_arrays": len(arrays)}
        named = {_ABOUT: _text(about), _STATE: _text(state)}
        named |= {str(index): array for index, array in enumerate(arrays)}
        try:
            os.makedirs(self.path, exist_ok=True)
            with replaced(path) as partial, open(partial, "xb") as file:
                np.savez(file, allow_pickle=False, **named)
                file.flush()
                os.fsync(file.fileno())
            self._flush_folder()
        except OSError as error:
            raise ValueError(
                f"The checkpoint {path!r} cannot be written "
                f"({error.strerror}): make room and start again with the same "
                "command, which goes on from the last checkpoint."
            ) from error
        # What nobody can use must not push out what somebody can.
        self._useless.discard(step)
        usable = [s for s in self._steps() if s not in self._useless]
        for old in [*self._useless, *usable[self._keep :]]:
            self._remove(old)

    def newest(self, is_ours=lambda about: True):
        """The last `Checkpoint` that is whole, or None; others warn.

        Args:
            is_ours: function from the `about` of a checkpoint to whether it
                may be used.

        Raises:
            ValueError: if a file may not be read.
        """
        for step in self._steps():
            path = self._file(step)
            try:
                found = _read(path, step, self.suffix)
            except PermissionError as error:
                # It may be whole.
                raise unreadable(path, error) from error
            except Exception as error:
                # One changed bit can raise anything that a reader can.
                reason = str(error) or type(error).__name__
                warnings.warn(
                    f"The checkpoint {path!r} is damaged ({reason}): the one "
                    "before is used, or none.",
                    stacklevel=2,
                )
            else:
                if is_ours(found.about):
                    return found
                warnings.warn(
                    f"The checkpoint {path!r} is of another run: the one "
                    "before is used, or none.",
                    stacklevel=2,
                )
            self._useless.add(step)
        if self._useless:
            warnings.warn(
                f"No checkpoint in {self.path!r} can be used: training begins "
                "anew.",
                stacklevel=2,
            )
        return None

    def remove(self):
        """Removes the checkpoints, and the folder if it is empty then."""
        for step in self._steps():
            self._remove(step)
        with contextlib.suppress(OSError):
            remove_partial(self.path)
            os.rmdir(self.path)

    def _steps(self):
        """Steps of the checkpoints, the last one first."""
        name = re.compile(rf"step-(\d+){re.escape(self.suffix)}")
        try:
            found = map(name.fullmatch, os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _file(self, step):
        return os.path.join(self.path, f"step-{step}{self.suffix}")

    def _flush_folder(self):
        # Only then a renamed file is sure to outlive a power failure.
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove(self, step):
        # What is no file stays, and so does what cannot be removed.
        with contextlib.suppress(OSError):
            os.remove(self._file(step))


def _text(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _read(path, step, suffix):
    """The `Checkpoint` of a file; raises anything if it is damaged."""
    if not os.path.isfile(path):
        raise ValueError("it is no file")
    with zipfile.ZipFile(path) as archive:
        # Read whole, for only then the checksums of the archive are looked at.
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(
                io.BytesIO(archive.read(name)), allow_pickle=False
            )
            for name in archive.namelist()
        }
    state = json.loads(arrays.pop(_STATE).tobytes())
    about = json.loads(arrays.pop(_ABOUT).tobytes())
    if (about["step"], about["num_arrays"]) != (step, len(arrays)):
        raise ValueError(
            f"it holds {len(arrays)} of {about['num_arrays']} arrays of step "
            f"{about['step']}"
        )
    arrays = [arrays[str(index)] for index in range(len(arrays))]
    return Checkpoint(step, arrays, state, about, suffix)


def training_arrays(model):
    """Values of all that training changes, as a list of NumPy arrays.

    Weights, states of random layers, the optimizer's variables, a gradient
    that waits for its pair among them, and those of the metrics. The model
    has to be built, and so have its optimizer and its metrics.

    What every replica has of its own, running averages and metrics, has one
    row a replica, if there are several. All workers have to call this at the
    same step, for they exchange these values.
    """
    common, own = _variables(model)
    strategy = model.distribute_strategy
    arrays = [ops.convert_to_numpy(v) for v in common]
    if strategy.num_replicas_in_sync == 1:
        return arrays + [ops.convert_to_numpy(v) for v in own]
    return arrays + backend.replica_values(strategy, own)


def restore_training_arrays(model, checkpoint, with_metrics):
    """Gives all that training changes the values that it had.

    Args:
        model: a compiled model.
        checkpoint: a `Checkpoint` of what `training_arrays` returned.
        with_metrics: whether the metrics are restored too.

    Raises:
        ValueError: if the arrays are not those of such a model, on as many
            replicas.
    """
    common, own = _variables(model)
    arrays = checkpoint.arrays
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    rows = () if replicas == 1 else (replicas,)
    variables = [*common, *own]
    shapes = [tuple(v.shape) for v in common]
    shapes += [(*rows, *v.shape) for v in own]
    expected = list(zip(shapes, map(_dtype, variables), strict=True))
    arrays = list(map(_in_dtype, arrays, map(_dtype, variables)))
    if expected != [(array.shape, array.dtype) for array in arrays]:
        raise ValueError(
            f"The checkpoint {checkpoint.file_name} does not fit the model "
            f"that the configuration makes, on {replicas} "
            f"replica{'s' * (replicas > 1)}: train on as many as before, or "
            "remove the working directory to start anew."
        )
    metrics = {id(variable) for variable in model.metrics_variables}
    restored = [
        (variable, array)
        for variable, array in zip(variables, arrays, strict=True)
        if with_metrics or id(variable) not in metrics
    ]
    count = len(common) if rows else len(restored)
    for variable, array in restored[:count]:
        variable.assign(array)
    if restored[count:]:
        backend.assign_replica_values(
            strategy, *zip(*restored[count:], strict=True)
        )


def _variables(model):
    """Variables alike on all replicas, and those of each replica's own."""
    own = [*model.non_trainable_variables, *model.metrics_variables]
    own = {id(variable): variable for variable in own}
    common = [*model.variables, *model.optimizer.variables]
    common = {id(v): v for v in common if id(v) not in own}
    return list(common.values()), list(own.values())


def _dtype(variable):
    return np.dtype(variable.dtype)


def _in_dtype(array, dtype):
    # NumPy's files know bfloat16 by its size alone.
    is_unknown = array.dtype == np.dtype((np.void, dtype.itemsize))
    return array.view(dtype) if is_unknown else array


class StreamsVersion(keras.callbacks.Callback):
    """Keeps in the checkpoints which batches a seed gave.

    Args:
        sampling: how the batches are drawn.
    """

    def __init__(self, sampling):
        super().__init__()
        self._version = STREAMS_VERSIONS[sampling]

    def check(self, checkpoint):
        """Raises a `ValueError` if the checkpoint's run drew other batches."""
        saved = checkpoint.states.get(type(self).__name__)
        if saved != self._version:
            raise ValueError(
                f"The checkpoint of step {checkpoint.step} is of a version of "
                "this project that draws other batches from the same seed "
                f"(streams {saved!r:.20}, here {self._version}): finish the "
                "run with the version that began it, or remove the working "
                "directory to start anew."
            )

    def state_dict(self):
        return self._version

    def load_state_dict(self, state):
        """Does nothing: `check` was there before anything was built on it."""
