"""`fit` that goes on, to the bit, where a killed process was."""

import bisect
import contextlib
import itertools
import math
import re
import signal
import time

import keras
import tensorflow as tf

from experiments.checkpoint import restore_training_arrays, training_arrays
from experiments.process.bars import progress_bar
from experiments.process.interruption import Interruption, exit_code
from keras_svag import backend
from keras_svag.arguments import refusal
from keras_svag.callbacks.monitor import GradientNoiseMonitor


def checkpoint_interval(text, steps_per_sgd_step=1):
    """From one checkpoint to the next: `(training steps, seconds)`.

    One of them is infinite: `"500"` is a number of SGD steps, each of which
    takes as long as `steps_per_sgd_step` training steps; `"60s"` is one of
    seconds.

    Raises:
        ValueError: if the text is none of both, or not above 0.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", text.strip())
    number = float(match[1] or match[2]) if match else 0
    if number <= 0:
        wanted = "a number of SGD steps above 0, as in 500, or of seconds, as "
        raise ValueError(refusal("checkpoint_every", f"{wanted}in 60s", text))
    if match[1]:
        return number * steps_per_sgd_step, math.inf
    return math.inf, number


def resumable_fit(
    model,
    make_batches,
    validation_data,
    epochs,
    plans,
    interval,
    checkpoints,
    found,
    callbacks,
    *,
    validation_freq=1,
    verbose=1,
    writes=True,
):
    """Trains as `model.fit` does, from a checkpoint on if there is one.

    Callbacks see one training without a break: the number of the epoch and of
    the step within it, `on_train_begin` and `on_train_end` once. Those that
    remember something have `state_dict()`, a value of JSON, and
    `load_state_dict`.

    SIGINT, SIGTERM and their kin (`experiments.process.interruption`) end the
    training at the next step (after validation, if that is going on), when its
    state is saved; but in the last epoch's validation training is done. Several
    workers, which would have to agree, end at once.

    Args:
        model: a compiled and built model.
        make_batches: function from the number of an epoch and that of a
            training step in it, both from 0, to the endless
            `tf.data.Dataset` of batches from there on.
        validation_data: a `tf.data.Dataset`.
        epochs: how many.
        plans: list of their `EpochPlan`s, whose steps fill whole calls of the
            model's `steps_per_execution`; those that a callback is to append
            when the epoch before has ended are not in it yet.
        interval: `(training steps, seconds)` from one checkpoint to the next.
        checkpoints: a `CheckpointFolder`.
        found: the `Checkpoint` to go on from, or None.
        callbacks: list of Keras callbacks, each of a class of its own.
        validation_freq: as in `model.fit`.
        verbose: 1 shows one bar over the whole training, for a terminal; 2
            prints a line an epoch; 0 shows nothing.
        writes: whether this process writes the checkpoints: one of several
            workers does. They share the folder.

    Raises:
        TrainingInterrupted: if a signal came.
        ValueError: if a checkpoint cannot be written, or is of another model.
    """
    epoch, done = 0, 0
    if found is not None:
        ends = [*itertools.accumulate(p.steps_per_epoch for p in plans)]
        epoch = bisect.bisect_right(ends, found.step)
        done = found.step - (ends[epoch - 1] if epoch else 0)
        _build(model, validation_data)
        if done or len({*plans[max(epoch - 1, 0) : epoch + 1]}) == 1:
            # The first step of larger batches is traced by training.
            _trace(model, make_batches(epoch, done), callbacks)
    several = backend.has_several_workers(model.distribute_strategy)
    progress = _Progress(is_drawn=verbose == 1)
    with (
        Interruption(notes=not several) as interruption,
        contextlib.closing(progress),
    ):
        callbacks = _ResumableCallbacks(
            [*callbacks, progress] if verbose else callbacks,
            model,
            epochs,
            plans,
            interval,
            checkpoints if writes else None,
            found,
            interruption,
        )
        while epoch < epochs and not model.stop_training:
            # Keras gives every epoch of a call the same number of steps.
            is_alone = done or len(plans) < epochs
            end = epoch + 1 if is_alone else epochs
            callbacks.is_last_fit = end == epochs
            model.fit(
                make_batches(epoch, done),
                initial_epoch=epoch,
                epochs=end,
                steps_per_epoch=plans[epoch].steps_per_epoch - done,
                validation_data=validation_data,
                validation_freq=validation_freq,
                shuffle=False,
                callbacks=callbacks,
            )
            epoch, done = end, 0


def _build(model, data):
    """Makes the variables that a step of training would make."""
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    model.evaluate(data, steps=1, verbose=0)


def _trace(model, batches, callbacks):
    """Traces a step of training, by none, under the monitors of the noise.

    They observe no step that is being traced: here, it would be one that they
    observe where the training is not interrupted.
    """
    strategy = model.distribute_strategy
    monitors = [c for c in callbacks if isinstance(c, GradientNoiseMonitor)]
    if not monitors or backend.has_several_workers(strategy):
        return
    none = strategy.experimental_distribute_dataset(batches.take(0))
    is_over = StopIteration, tf.errors.OutOfRangeError
    for monitor in monitors:
        with monitor.watch(model), contextlib.suppress(*is_over):
            model.train_function(iter(none))


class _ResumableCallbacks(keras.callbacks.CallbackList):
    def __init__(
        self,
        callbacks,
        model,
        epochs,
        plans,
        interval,
        checkpoints,
        found,
        interruption,
    ):
        steps = plans[0].steps_per_epoch
        super().__init__(
            callbacks, add_history=True, model=model, epochs=epochs, steps=steps
        )
        self._plans = plans
        self._interval = interval
        self._checkpoints = checkpoints
        self._found = found
        self._interruption = interruption
        self._has_begun = False
        self._first_batch = 0
        self._saved_step = found.step if found else 0
        self._saved_time = time.monotonic()
        self.is_last_fit = True

    def on_train_begin(self, logs=None):
        if not self._has_begun:
            super().on_train_begin(logs)
        self._has_begun = True

    def on_train_end(self, logs=None):
        if self.is_last_fit or self.model.stop_training:
            super().on_train_end(logs)

    def on_epoch_begin(self, epoch, logs=None):
        steps = [plan.steps_per_epoch for plan in self._plans[: epoch + 1]]
        self._steps, self._steps_before = steps[-1], sum(steps[:-1])
        self.set_params(self.params | {"steps": self._steps})
        found, self._found = self._found, None
        self._first_batch = found.step - self._steps_before if found else 0
        if found:
            restore_training_arrays(self.model, found)
        if found and not self._first_batch:
            # An epoch that has not begun begins with the metrics at zero.
            self.model.reset_metrics()
            found.restore(self.callbacks)
        super().on_epoch_begin(epoch, logs)
        if self._first_batch:
            found.restore(self.callbacks)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(self._first_batch + batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        batch += self._first_batch
        super().on_train_batch_end(batch, logs)
        # The last step's state is saved when the epoch has ended.
        if batch + 1 < self._steps:
            self._save_if_due(self._steps_before + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch + 1 < self.params["epochs"]:
            self._save_if_due(self._steps_before + self._steps)

    def _save_if_due(self, step):
        interrupted = self._interruption.signal
        # The steps of a call are done, or repeated, together.
        next_step = step + self.model.steps_per_execution
        steps, seconds = self._interval
        if self.model.stop_training or not (
            interrupted is not None
            or next_step - self._saved_step > steps
            or time.monotonic() - self._saved_time >= seconds
        ):
            return
        arrays = training_arrays(self.model)
        if self._checkpoints:
            state = {
                type(callback).__name__: callback.state_dict()
                for callback in self.callbacks
                if hasattr(callback, "load_state_dict")
            }
            self._checkpoints.save(step, arrays, state)
        self._saved_step, self._saved_time = step, time.monotonic()
        if interrupted is not None:
            raise TrainingInterrupted(interrupted)


class _Progress(keras.callbacks.Callback):
    """Says how far training is: the log in full is the history's.

    Put it after the callbacks that add to the logs. A terminal has one bar over
    the whole training; elsewhere an epoch has a line.
    """

    def __init__(self, is_drawn):
        super().__init__()
        self._is_drawn = is_drawn
        self._bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self._bar is None:
            self._bar = progress_bar(
                self._described({}),
                self.params["epochs"],
                self._place(batch),
                self._is_drawn,
            )

    def on_train_batch_end(self, batch, logs=None):
        self._bar.set_description_str(self._described(logs), refresh=False)
        self._bar.update(self._place(batch + 1) - self._bar.n)

    def on_epoch_end(self, epoch, logs=None):
        self._bar.set_description_str(self._described(logs), self._is_drawn)
        if not self._is_drawn:
            print(self._bar, flush=True)
        if epoch + 1 == self.params["epochs"]:
            # What other callbacks do at the end may take long.
            self._bar.bar_format = "{desc}{bar}  in {elapsed}"
            self.close()

    def close(self):
        """Leaves the bar as it is, and goes on below it."""
        if self._bar is not None:
            self._bar.close()

    def _place(self, batch):
        """In epochs, which may have more steps than others."""
        return self._epoch + batch / self.params["steps"]

    def _described(self, logs):
        epochs = str(self.params["epochs"])
        parts = [f"epoch {self._epoch + 1:>{len(epochs)}}/{epochs}"]
        for key, number in _NUMBERS.items():
            if key in logs and not (self._is_drawn and key == "val_accuracy"):
                parts.append(number.format(logs[key]))
        return "  ".join([*parts, ""])


# These and the time fit into a line of 80 characters.
_NUMBERS = {
    "loss": "loss {:<6.3g}",
    "accuracy": "accuracy {:<6.1%}",
    "val_accuracy": "test {:<6.1%}",
    "noise_to_signal": "N/G {:<4.3g}",
}


class TrainingInterrupted(Exception):
    """Training was told to stop, and its state is saved.

    Args:
        number: the signal's number.

    Attributes:
        exit_code: of a process that it ends: 130 for SIGINT, else 143.
    """

    def __init__(self, number):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = exit_code(number)
