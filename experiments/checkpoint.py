"""A training state, saved and restored exactly."""

import contextlib
import dataclasses
import io
import json
import os
import re
import warnings
import zipfile

import numpy as np
from keras import ops

from experiments.process.own_files import (
    UNUSABLE,
    remove_partial,
    replaced,
    unreadable,
)
from keras_svag import backend

_ABOUT, _STATE = "about", "state"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved after a number of training steps.

    Attributes:
        state: dict from the names of the classes of callbacks to what they
            remembered, values of JSON.
        about: dict of JSON values, that of the `CheckpointFolder`.
    """

    step: int
    arrays: list
    state: dict
    about: dict
    file_name: str

    def restore(self, callbacks):
        """Gives callbacks what they remembered, if they have `load_state_dict`.

        Raises:
            ValueError: if one of them cannot use it, as that of another
                version of it.
        """
        for callback in callbacks:
            name = type(callback).__name__
            if name in self.state and hasattr(callback, "load_state_dict"):
                try:
                    callback.load_state_dict(self.state[name])
                except UNUSABLE as error:
                    raise ValueError(
                        f"The checkpoint {self.file_name} holds no state of "
                        f"{name} that can be used ({error}): remove the file "
                        "to go on from the one before."
                    ) from error


class CheckpointFolder:
    """A folder of the last checkpoints of a run, a file each.

    A file is written under another name, flushed to the disk and renamed, so
    that a process killed at any moment leaves whole files; the archive's
    checksums tell one that was damaged later. Nothing is pickled.

    Its files are those named `step-N.run.npz`. All others in the folder are
    left as they are.

    Args:
        path: the folder; it is made when the first checkpoint is saved.
        run: string of letters and digits that tells the run from others.
        keep: how many checkpoints are kept, at least 1.
        check: function without arguments, called before a checkpoint is
            saved; it raises if the folder must not be written to.

    Attributes:
        about: dict of JSON values that is saved with each checkpoint.
    """

    def __init__(self, path, run="run", keep=3, check=lambda: None):
        self.path = path
        self.about = {}
        self._run = run
        self._keep = keep
        self._check = check

    def save(self, step, arrays, state):
        """Writes a checkpoint, then removes the oldest ones.

        Raises:
            ValueError: if it cannot be written; nothing is left of it, and
                the earlier checkpoints stay.
        """
        self._check()
        path = self._file(step)
        about = self.about | {"num_arrays": len(arrays)}
        named = {_ABOUT: _text(about), _STATE: _text(state)}
        named |= {str(index): array for index, array in enumerate(arrays)}
        try:
            os.makedirs(self.path, exist_ok=True)
            with replaced(path) as partial, open(partial, "xb") as file:
                np.savez(file, allow_pickle=False, **named)
                file.flush()
                os.fsync(file.fileno())
            # Only then a renamed file is sure to outlive a power failure.
            folder = os.open(self.path, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise ValueError(
                f"The checkpoint {path!r} cannot be written "
                f"({error.strerror}): make room and start again with the same "
                "command, which goes on from the last checkpoint."
            ) from error
        # Training went on from an earlier one than those of later steps.
        steps = self.steps()
        kept = [s for s in steps if s <= step][: self._keep]
        for old in {*steps} - {*kept}:
            self._remove(old)

    def newest(self):
        """The last `Checkpoint` that is whole, or None; others warn.

        Raises:
            ValueError: if a file may not be read.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._read(step)
            except PermissionError as error:
                # It may be whole.
                raise unreadable(self._file(step), error) from error
            except Exception as error:
                # One changed bit can raise anything that a reader can.
                warnings.warn(
                    f"The checkpoint {self._file(step)!r} is damaged "
                    f"({error}): the one before is used, or none.",
                    stacklevel=2,
                )
        if steps:
            warnings.warn(
                f"No checkpoint in {self.path!r} can be used: training begins "
                "anew.",
                stacklevel=2,
            )
        return None

    def remove(self):
        """Removes the checkpoints, and the folder if it is empty then."""
        for step in self.steps():
            self._remove(step)
        with contextlib.suppress(OSError):
            remove_partial(self.path)
            os.rmdir(self.path)

    def steps(self):
        """Steps of the checkpoints, the last one first."""
        name = re.compile(rf"step-(\d+)\.{self._run}\.npz")
        try:
            found = map(name.fullmatch, os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _file(self, step):
        return os.path.join(self.path, f"step-{step}.{self._run}.npz")

    def _remove(self, step):
        with contextlib.suppress(OSError):
            os.remove(self._file(step))

    def _read(self, step):
        """The `Checkpoint` of a step; raises anything if it is damaged."""
        path = self._file(step)
        with zipfile.ZipFile(path) as archive:
            # Read whole, for only then the archive's checksums are looked at.
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
            }
        about, state = (
            json.loads(arrays.pop(name).tobytes()) for name in (_ABOUT, _STATE)
        )
        arrays = [arrays[str(index)] for index in range(about["num_arrays"])]
        return Checkpoint(step, arrays, state, about, os.path.basename(path))


def _text(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


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


def restore_training_arrays(model, checkpoint):
    """Gives all that training changes the values that it had.

    Raises:
        ValueError: if the arrays are not those of such a model, on as many
            replicas.
    """
    common, own = _variables(model)
    arrays, count = checkpoint.arrays, len(common)
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    rows = () if replicas == 1 else (replicas,)
    expected = [(tuple(v.shape), v.dtype) for v in common]
    expected += [((*rows, *v.shape), v.dtype) for v in own]
    if expected != [(array.shape, str(array.dtype)) for array in arrays]:
        raise ValueError(
            f"The checkpoint {checkpoint.file_name} does not fit the model "
            f"that the configuration makes, on {replicas} "
            f"replica{'s' * (replicas > 1)}: train on as many as before, or "
            "remove the working directory to start anew."
        )
    if rows:
        backend.assign_replica_values(strategy, own, arrays[count:])
    else:
        common += own
    for variable, array in zip(common, arrays, strict=False):
        variable.assign(array)


def _variables(model):
    """Variables alike on all replicas, and those of each replica's own."""
    own = [*model.non_trainable_variables, *model.metrics_variables]
    own = {id(variable): variable for variable in own}
    common = [*model.variables, *model.optimizer.variables]
    common = {id(v): v for v in common if id(v) not in own}
    return list(common.values()), list(own.values())
