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
from keras_svag.arguments import wrong
from keras_svag.callbacks.monitor import GradientNoiseMonitor


def checkpoint_interval(text, steps_per_sgd_step=1):
    """From one checkpoint to the next: `(training steps, seconds)`.

    `"500"` is a number of SGD steps, each of which takes as long as
    `steps_per_sgd_step` training steps; `"60s"` is one of seconds. The other
    one is infinite.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", text.strip())
    number = float(match[1] or match[2]) if match else 0
    if number <= 0:
        wanted = "a number of SGD steps above 0, as in 500, or of seconds, as "
        raise wrong("checkpoint_every", f"{wanted}in 60s", text)
    if match[1]:
        return number * steps_per_sgd_step, math.inf
    return math.inf, number


def resumable_fit(
    model,
    make_batches,
    plans,
    callbacks,
    checkpoints,
    found,
    *,
    epochs,
    interval,
    verbose=1,
    **options,
):
    """Trains as `model.fit` does, from a checkpoint on if there is one.

    Callbacks see one training without a break: the number of the epoch and of
    the step within it, `on_train_begin` and `on_train_end` once. Those that
    remember something have `state_dict()`, a value of JSON, and
    `load_state_dict`.

    A signal (`experiments.process.interruption`) ends the training at the next
    step, when its state is saved; but in the last epoch's validation training
    is done. Several workers, which would have to agree, end at once.

    Args:
        model: a compiled and built model.
        make_batches: function from the number of an epoch and that of a
            training step in it, both from 0, to the endless batches from there.
        plans: list of the `EpochPlan`s of the epochs, whose steps fill whole
            calls; a callback may append them, each when one epoch has ended.
        callbacks: list of Keras callbacks, each of a class of its own.
        checkpoints: a `CheckpointFolder`, or None if another worker writes.
        found: the `Checkpoint` to go on from, or None.
        epochs: how many.
        interval: what `checkpoint_interval` returns.
        verbose: 1 shows one bar, for a terminal, 2 a line an epoch, 0 nothing.
        **options: of `model.fit`, `validation_data` among them.
    """
    epoch, done = 0, 0
    several = backend.has_several_workers(model.distribute_strategy)
    if found:
        ends = [*itertools.accumulate(p.steps_per_epoch for p in plans)]
        epoch = bisect.bisect_right(ends, found.step)
        done = found.step - (ends[epoch - 1] if epoch else 0)
        # The variables that a step of training would make.
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        model.evaluate(options["validation_data"], steps=1, verbose=0)
        # The first step of larger batches is traced by training.
        if not several and (done or plans[epoch] == plans[max(epoch - 1, 0)]):
            _trace(model, make_batches(epoch, done), callbacks)
    progress = _Progress(is_drawn=verbose == 1)
    if verbose:
        callbacks = [*callbacks, progress]
    with (
        Interruption(notes=not several) as interruption,
        contextlib.closing(progress),
    ):
        resumable = _ResumableCallbacks(
            callbacks, model, epochs, plans, interval, checkpoints, found
        )
        resumable.interruption = interruption
        while epoch < epochs and not model.stop_training:
            # Keras gives every epoch of a call the same number of steps.
            is_alone = done or len(plans) < epochs
            end = epoch + 1 if is_alone else epochs
            model.fit(
                make_batches(epoch, done),
                initial_epoch=epoch,
                epochs=end,
                steps_per_epoch=plans[epoch].steps_per_epoch - done,
                shuffle=False,
                callbacks=resumable,
                **options,
            )
            epoch, done = end, 0


def _trace(model, batches, callbacks):
    """Has a step traced under the monitors of the noise, and takes none.

    They do not observe a step while it is traced.
    """
    batches = model.distribute_strategy.experimental_distribute_dataset(
        batches.take(0)
    )
    for monitor in callbacks:
        if isinstance(monitor, GradientNoiseMonitor):
            is_over = StopIteration, tf.errors.OutOfRangeError
            with monitor.watch(model), contextlib.suppress(*is_over):
                model.train_function(iter(batches))


class _ResumableCallbacks(keras.callbacks.CallbackList):
    def __init__(
        self, callbacks, model, epochs, plans, interval, checkpoints, found
    ):
        steps = plans[0].steps_per_epoch
        super().__init__(
            callbacks, add_history=True, model=model, epochs=epochs, steps=steps
        )
        self._plans, self._interval = plans, interval
        self._checkpoints, self._found = checkpoints, found
        self._has_begun = False
        self._saved_step = found.step if found else 0
        self._saved_time = time.monotonic()

    def on_train_begin(self, logs=None):
        if not self._has_begun:
            super().on_train_begin(logs)
        self._has_begun = True

    def on_train_end(self, logs=None):
        is_last = self._epoch + 1 == self.params["epochs"]
        if is_last or self.model.stop_training:
            super().on_train_end(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
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
        number = self.interruption.signal
        # The steps of a call are done, or repeated, together.
        next_step = step + self.model.steps_per_execution
        steps, seconds = self._interval
        if self.model.stop_training or not (
            number is not None
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
        if number is not None:
            raise TrainingInterrupted(number)


# The logs that are said; with the time they fit into 80 characters.
_NUMBERS = {
    "loss": "loss {:<6.3g}",
    "accuracy": "accuracy {:<6.1%}",
    "val_accuracy": "test {:<6.1%}",
    "noise_to_signal": "N/G {:<4.3g}",
}


class _Progress(keras.callbacks.Callback):
    """Says how far training is; put it after what adds to the logs."""

    def __init__(self, is_drawn):
        super().__init__()
        self._is_drawn = is_drawn
        self._bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self._bar is None:
            begin, end = self._place(batch), self.params["epochs"]
            text = self._described({})
            self._bar = progress_bar(text, end, begin, self._is_drawn)

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
        if self._bar is not None:
            self._bar.close()

    def _place(self, batch):
        # In epochs, some of which may have more steps than others.
        return self._epoch + batch / self.params["steps"]

    def _described(self, logs):
        epochs = str(self.params["epochs"])
        parts = [f"epoch {self._epoch + 1:>{len(epochs)}}/{epochs}"]
        for key, number in _NUMBERS.items():
            if key in logs and not (self._is_drawn and key == "val_accuracy"):
                parts.append(number.format(logs[key]))
        return "  ".join([*parts, ""])


class TrainingInterrupted(Exception):
    """A signal told training to stop, and its state is saved."""

    def __init__(self, number):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = exit_code(number)
