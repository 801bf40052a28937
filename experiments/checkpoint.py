"""A training state, saved and restored exactly."""

import contextlib
import dataclasses
import json
import os
import re
import warnings

import numpy as np
from keras import ops

from experiments.process.own_files import remove_partial, replaced, unreadable
from keras_svag import backend

_NUM_KEPT = 3


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved after a number of training steps.

    `state` has what callbacks remembered, values of JSON, by their classes.
    """

    step: int
    arrays: list
    state: dict
    file_name: str

    def restore(self, callbacks):
        """Gives callbacks what they remembered, by their `load_state_dict`."""
        for callback in callbacks:
            name = type(callback).__name__
            if name in self.state:
                callback.load_state_dict(self.state[name])


class CheckpointFolder:
    """A folder of the last checkpoints of a run, files `step-N.RUN.npz`.

    A file is written under another name, flushed to the disk and renamed, so
    that a process killed at any moment leaves whole files; the archive's
    checksums tell one that was damaged later. All other files stay. `check` is
    called before a file is written, and raises if it must not be.
    """

    def __init__(self, path, run="run", check=lambda: None):
        self.path = path
        self._run = run
        self._check = check

    def save(self, step, arrays, state):
        """Writes a checkpoint, then removes all but the last ones up to it."""
        self._check()
        os.makedirs(self.path, exist_ok=True)
        arrays = {str(index): array for index, array in enumerate(arrays)}
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with (
            replaced(self._file(step)) as partial,
            open(partial, "xb") as file,
        ):
            np.savez(file, allow_pickle=False, **arrays, state=text)
            file.flush()
            os.fsync(file.fileno())
        # Only then a renamed file is sure to outlive a power failure.
        folder = os.open(self.path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        # Training went on from an earlier one than those of later steps.
        steps = self.steps()
        kept = [s for s in steps if s <= step][:_NUM_KEPT]
        self._remove({*steps} - {*kept})

    def newest(self):
        """The last `Checkpoint` that is whole, or None; others warn."""
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
        self._remove(self.steps())
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

    def _remove(self, steps):
        for step in steps:
            with contextlib.suppress(OSError):
                os.remove(self._file(step))

    def _read(self, step):
        path = self._file(step)
        with np.load(path, allow_pickle=False) as archive:
            if damaged := archive.zip.testzip():
                raise ValueError(f"the checksum of {damaged} is another")
            found = dict(archive)
        state = json.loads(found.pop("state").tobytes())
        arrays = [
            found[name] for name in sorted(filter(str.isdigit, found), key=int)
        ]
        return Checkpoint(step, arrays, state, os.path.basename(path))


def training_arrays(model):
    """Values of all that training changes, as a list of NumPy arrays.

    Weights, states of random layers, and the variables of the optimizer and
    the metrics, which have to be built. Running averages and metrics have one
    row a replica, if there are several. All workers have to call this at once.
    """
    common, own = _variables(model)
    strategy = model.distribute_strategy
    arrays = [ops.convert_to_numpy(v) for v in common]
    if strategy.num_replicas_in_sync == 1:
        return arrays + [ops.convert_to_numpy(v) for v in own]
    return arrays + backend.replica_values(strategy, own)


def restore_training_arrays(model, checkpoint):
    """Gives all that training changes the values that it had."""
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
