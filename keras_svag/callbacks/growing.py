"""`fit` with batches that grow as far as a measured condition allows."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_svag import arguments, backend
from keras_svag.callbacks.check import ScalingRuleCheck
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.optimizers import Rule
from keras_svag.scaling.scaled_optimizer import rescale, scale_optimizer

_GROWTH = 2
_PERMUTED = "an epoch is a permutation of the data"
_REFUSED = {
    "shuffle": _PERMUTED,
    "steps_per_epoch": _PERMUTED,
    "validation_split": "give `validation_data`",
}
# A rate that a schedule has halved may be rounded.
_HALVED = 0.5 * (1 + 1e-6)


def fit_growing(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    max_batch_size: int,
    epochs: int = 1,
    check: ScalingRuleCheck | None = None,
    mode: Literal["measured", "seesaw"] | Mapping[int, int] = "measured",
    on_heuristic: Literal["stay", "grow"] = "stay",
    sample_weight: Any = None,
    callbacks: Any = None,
    verbose: int | Literal["auto"] = "auto",
    **fit_args: Any,
) -> keras.callbacks.History:
    """`model.fit` whose batches double while a measured condition allows it.

    ```python
    check = keras_svag.ScalingRuleCheck()
    history = keras_svag.fit_growing(
        model, x, y, batch_size=64, max_batch_size=1024, epochs=40, check=check
    )
    history.history["batch_size"]
    ```

    It is one `fit`: callbacks, progress bar, history and `initial_epoch` are
    as in any other. At the beginning of an epoch the batch is doubled, as
    often as is allowed, and the optimizer of the model gets the
    hyperparameters of the scaling rule for it (as by `scale_optimizer`, in
    place). A doubled batch is allowed if the check does not rule it out with
    its whole interval: C is asked between the run with the new batch and the
    run with the *first* one that the check has seen, whose N is taken from the
    G and S of the batches trained with now. (The condition between two runs is
    the paper's; that one run stands for the other is not.) No batch grows to
    where the rule has no hyperparameters any more, as the square-root rule from
    κ (1 - β) = 1 on.

    To go on from a saved model, give the `batch_size` that it was at (the
    logs have it), its `initial_epoch`, and a check that has loaded its
    `state_dict`: with the same seed the rest is that of the whole run. (A
    halving of the rate for `"seesaw"` counts from there.) `BackupAndRestore`
    does not know the batch size.

    Args:
        model: A compiled `keras.Model`, with the optimizer for `batch_size`.
        x: Arrays, as `fit` takes them; each epoch is a new permutation of
            them. Or a function that makes a data set of batches of a given
            size, which has a `len`.
        y, sample_weight: As for `fit`.
        batch_size: Examples of the first batches.
        max_batch_size: Examples that no batch exceeds.
        epochs: As for `fit`.
        check: `ScalingRuleCheck` whose report decides. None: a new one with
            `mode="measured"`, and none otherwise: then all is allowed.
        mode: When to double: `"measured"`, as soon as it is allowed;
            `"seesaw"`, where the learning rate has been halved by a schedule
            (or a callback that divides it), as in Seesaw: the rule makes up
            for it, 1 for SGD and 1/√2 for Adam; or a schedule of one's own,
            `{epoch: batch size}` in powers of two of the first, epochs counted
            from 0.
        on_heuristic: `"stay"`: a verdict that is a heuristic allows nothing;
            `"grow"`: it counts as any other.
        callbacks, verbose: As for `fit`. A callback that assigns a learning
            rate of its own, as `LearningRateScheduler` does, undoes the rule's.
        **fit_args: Others of `fit`, but `shuffle`, `steps_per_epoch` and
            `validation_split`.

    Returns:
        The `History` of `fit`, with `batch_size` among its keys.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of range, the rule is not for the optimizer,
            or a data set has no length.

    References:
        S. L. Smith et al., Don't decay the learning rate, increase the batch
        size, ICLR 2018. Seesaw: arXiv 2510.14717.
    """
    backend.check_model(model)
    arguments.integer("batch_size", batch_size)
    arguments.integer("max_batch_size", max_batch_size, least=batch_size)
    arguments.integer("epochs", epochs)
    kinds = ScalingRuleCheck, type(None)
    arguments.instance("check", check, kinds, "a ScalingRuleCheck or None")
    if isinstance(mode, Mapping):
        for epoch, size in mode.items():
            arguments.integer("mode", epoch, least=0)
            arguments.integer("mode", size, batch_size, max_batch_size)
            doublings = math.log2(size / batch_size)
            if not doublings.is_integer():
                wanted = f"of sizes that are {batch_size} times a power of 2"
                raise arguments.wrong("mode", wanted, size)
    else:
        arguments.choice("mode", mode, ("measured", "seesaw"))
    arguments.choice("verbose", verbose, ("auto", 0, 1, 2))
    arguments.choice("on_heuristic", on_heuristic, ("stay", "grow"))
    for name in _REFUSED.keys() & fit_args.keys():
        wanted = f"left out: {_REFUSED[name]}"
        raise arguments.wrong(name, wanted, fit_args[name])
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled, with the optimizer for `batch_size`; "
            "call model.compile."
        )
    if check is None and mode == "measured":
        check = ScalingRuleCheck()
    data = _data_of(x, y, sample_weight, batch_size)
    growth = BatchGrowth(batch_size, max_batch_size, check, mode, on_heuristic)
    growth.check_optimizer(model.optimizer)
    given = keras.tree.flatten(callbacks or [])
    growing = _Growing(data, growth)
    checks = [] if check is None or check in given else [check]
    growing.callbacks = keras.callbacks.CallbackList(
        [growing, *checks, *given],
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=data.num_batches,
        model=model,
    )
    return model.fit(
        data,
        epochs=epochs,
        callbacks=growing.callbacks,
        verbose=verbose,
        shuffle=False,
        **fit_args,
    )


@dataclasses.dataclass
class BatchGrowth:
    """Decides how far the batch may grow, and has the optimizer follow.

    Attributes:
        first: Rows of the first batches.
        largest: Rows that no batch exceeds.
        check, mode, on_heuristic: As for `fit_growing`; without a check all
            is allowed.
        peak: The highest learning rate of the schedule so far, for the first
            batches: what `"seesaw"` has to know of earlier epochs.
    """

    first: int
    largest: int
    check: ScalingRuleCheck | None
    mode: Literal["measured", "seesaw"] | Mapping[int, int]
    on_heuristic: Literal["stay", "grow"]
    peak: float = 0.0

    @property
    def rule(self) -> Rule | Literal["auto"]:
        return "auto" if self.check is None else self.check.rule

    def check_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Raises a `ValueError` if the rule ends before the batch does."""
        planned = 0
        if isinstance(self.mode, Mapping):
            planned = min(max(self.mode.values(), default=0), self.largest)
        kappa = max(planned / self.first, _GROWTH)
        scale_optimizer(optimizer, kappa, self.rule)

    def note_rate(self, model: keras.Model, size: int) -> float:
        """The schedule's learning rate, from which `peak` is."""
        conditions = conditions_of(model.optimizer, self.rule)
        kappa = size / self.first
        scale = kappa if conditions.rule == "linear" else math.sqrt(kappa)
        rate = conditions.learning_rate / scale
        self.peak = max(self.peak, rate)
        return rate

    def grow(self, model: keras.Model, epoch: int, size: int) -> int:
        """The batch size of an epoch that begins, after one of `size`.

        If it is larger, the optimizer of the model has its hyperparameters.
        """
        grown, rate = size, self.note_rate(model, size)
        conditions = conditions_of(model.optimizer, self.rule)
        while (
            _GROWTH * grown <= self.largest
            and self._is_due(epoch, grown, rate)
            # Else the rule has ended there.
            and conditions.scaled(_GROWTH * grown / size) is not None
            and self._is_allowed(_GROWTH * grown)
        ):
            grown *= _GROWTH
        if grown > size:
            rescale(model.optimizer, grown // size, self.rule)
            # Its constants are those of the hyperparameters of before.
            model.make_train_function(force=True)
        return grown

    def _is_due(self, epoch, size, rate):
        if self.mode == "measured":
            return True
        if self.mode == "seesaw":
            return rate < _HALVED * self.peak * self.first / size
        planned = [self.mode[e] for e in self.mode if e <= epoch]
        return _GROWTH * size <= max(planned, default=0)

    def _is_allowed(self, size):
        """Whether the check allows a batch size, after the first one."""
        check = self.check
        if check is None:
            return True
        report = check.report
        if report is None or report.verdict.refusal:
            return False
        verdict = report.verdict
        if verdict.heuristic and self.on_heuristic == "stay":
            return False
        series, conditions = check.series, verdict.conditions
        first = series[: np.sum(series["epoch"] == series["epoch"][0])]
        # B of the optimizer, which may take several batches or a part of one.
        unit = check.batch_size / series.largest_rows
        first_size = round(unit * first.largest_rows)
        if not verdict.is_square_root:
            # η of the run with the first batch, by the linear rule.
            rate = conditions.learning_rate * first_size / verdict.batch_size
            conditions = dataclasses.replace(conditions, learning_rate=rate)
        seen = dataclasses.replace(
            verdict,
            estimate=verdict.estimate.at(first_size),
            conditions=conditions,
        )
        return unit * size <= seen.not_ruled_out_up_to


class _Growing(keras.callbacks.Callback):
    """Lets the batches of a `fit` grow at the beginnings of epochs."""

    def __init__(self, data, growth):
        super().__init__()
        self.data, self.callbacks = data, None
        self._growth = growth

    def on_epoch_begin(self, epoch, logs=None):
        size = self._growth.grow(self.model, epoch, self.data.batch_size)
        self.data.begin(epoch, size)
        backend.count_batches_anew()
        self.callbacks.set_params(
            self.params | {"steps": self.data.num_batches}
        )

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["batch_size"] = self.data.batch_size


def _data_of(x, y, sample_weight, batch_size):
    if not callable(x):
        batch = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return _Rows(backend.ArrayRows(batch, "x"), batch_size)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            given, wanted = type(value).__name__, "None where `x` is a function"
            raise arguments.wrong(name, wanted, given)
    return _Made(x, batch_size)


class _Rows(keras.utils.PyDataset):
    """Permutations of arrays, in batches of a size that may change."""

    def __init__(self, rows, batch_size):
        super().__init__()
        self._rows = rows
        self._seed = int(np.random.randint(2**31))
        self.begin(0, batch_size)

    def begin(self, epoch, batch_size):
        """Sets what the next epoch has."""
        self.batch_size = batch_size
        rng = np.random.default_rng([self._seed, epoch])
        self._order = rng.permutation(self._rows.num_rows)

    @property
    def num_batches(self):
        return -(-self._rows.num_rows // self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        return self._rows.take(self._order[start : start + self.batch_size])


class _Made(keras.utils.PyDataset):
    """What a function makes for a batch size, which may change."""

    def __init__(self, make, batch_size):
        super().__init__()
        self._make = make
        self.batch_size = None
        self.begin(0, batch_size)

    def begin(self, epoch, batch_size):
        """Sets what the next epoch has."""
        if batch_size == self.batch_size:
            return
        self.batch_size = batch_size
        self._batches = self._make(batch_size)
        try:
            self.num_batches = len(self._batches)
        except TypeError:
            raise arguments.wrong(
                "x",
                "a function that makes data sets with a len()",
                f"{type(self._batches).__name__} for {batch_size}",
                "a tf.data.Dataset has one by apply("
                "tf.data.experimental.assert_cardinality(batches))",
            ) from None

    num_batches = 0

    def __getitem__(self, index):
        if index == 0:
            self._iterator = backend.batches_of(self._batches)
        return next(self._iterator)
