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
from keras_svag.scaling.optimizers import Rule, kind_of
from keras_svag.scaling.scaled_optimizer import rescale, scale_optimizer

_GROWTH = 2
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
        **fit_args: Others of `fit`, but `shuffle` and `steps_per_epoch`.

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
    if check is not None:
        arguments.instance(
            "check", check, ScalingRuleCheck, "a ScalingRuleCheck or None"
        )
    if isinstance(mode, Mapping):
        for epoch, size in mode.items():
            arguments.integer("mode", epoch, least=0)
            arguments.integer("mode", size, batch_size, max_batch_size)
    else:
        arguments.choice("mode", mode, ("measured", "seesaw"))
    arguments.choice("verbose", verbose, ("auto", 0, 1, 2))
    arguments.choice("on_heuristic", on_heuristic, ("stay", "grow"))
    for name in {"shuffle", "steps_per_epoch"} & {*fit_args}:
        raise ValueError(
            arguments.refusal(
                name,
                "left out: an epoch is a permutation of the data",
                fit_args[name],
            )
        )
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled, with the optimizer for `batch_size`; "
            "call model.compile."
        )
    rule: Rule | Literal["auto"] = "auto" if check is None else check.rule
    # What the rule refuses, it refuses here.
    planned = max(mode.values(), default=0) if isinstance(mode, Mapping) else 0
    kappa = max(planned / batch_size, _GROWTH)
    scale_optimizer(model.optimizer, kappa, rule)
    if check is None and mode == "measured":
        check = ScalingRuleCheck()
    given = list(callbacks or [])
    growth = _Growth(
        _data_of(x, y, sample_weight, batch_size),
        max_batch_size,
        check,
        mode,
        on_heuristic,
        rule,
    )
    checks = [] if check is None or check in given else [check]
    growth.callbacks = keras.callbacks.CallbackList(
        [growth, *checks, *given],
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=growth.data.num_batches,
        model=model,
    )
    return model.fit(
        growth.data,
        epochs=epochs,
        callbacks=growth.callbacks,
        verbose=verbose,
        shuffle=False,
        **fit_args,
    )


class _Growth(keras.callbacks.Callback):
    """Doubles the batch at the beginnings of epochs."""

    def __init__(self, data, largest, check, mode, on_heuristic, rule):
        super().__init__()
        self.data, self.callbacks = data, None
        self._first, self._largest = data.batch_size, largest
        self._check, self._mode, self._rule = check, mode, rule
        self._on_heuristic = on_heuristic
        # Of the schedule alone, when the batch last grew.
        self._rate = None

    def on_epoch_begin(self, epoch, logs=None):
        before = size = self.data.batch_size
        if self._rate is None:
            self._rate = self._scheduled_rate()
        while (
            _GROWTH * size <= self._largest
            and self._is_due(epoch, size)
            and self._has_hyperparameters(_GROWTH * size)
            and self._is_allowed(_GROWTH * size)
        ):
            size *= _GROWTH
            self._rate *= 1 / _GROWTH
        if size > before:
            model = self.model
            rescale(model.optimizer, size // before, self._rule)
            # Its constants are those of the hyperparameters of before.
            model.make_train_function(force=True)
        self.data.begin(epoch, size)
        backend.count_batches_anew()
        self.callbacks.set_params(
            self.params | {"steps": self.data.num_batches}
        )

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["batch_size"] = self.data.batch_size

    def _is_due(self, epoch, size):
        if self._mode == "measured":
            return True
        if self._mode == "seesaw":
            return self._scheduled_rate() <= _HALVED * self._rate
        planned = [self._mode[e] for e in self._mode if e <= epoch]
        return _GROWTH * size <= max(planned, default=0)

    def _scheduled_rate(self):
        """The learning rate, but for what the rule has made of it."""
        optimizer = backend.without_loss_scale(self.model.optimizer)
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        kappa = self.data.batch_size / self._first
        rule = kind_of(optimizer).rule if self._rule == "auto" else self._rule
        return rate / (kappa if rule == "linear" else math.sqrt(kappa))

    def _has_hyperparameters(self, size):
        """Whether the rule has not ended there."""
        conditions = conditions_of(self.model.optimizer, self._rule)
        return conditions.scaled(size / self.data.batch_size) is not None

    def _is_allowed(self, size):
        """Whether the check allows a batch size, after the first one."""
        if self._check is None:
            return True
        report = self._check.report
        if report is None or report.verdict.refusal:
            return False
        verdict = report.verdict
        if verdict.heuristic and self._on_heuristic == "stay":
            return False
        # B of the optimizer, which may take several batches or a part of one.
        unit = verdict.batch_size / self.data.batch_size
        first_size, conditions = self._first_seen(), verdict.conditions
        if not verdict.is_square_root:
            # η of the run with the first batch, by the linear rule.
            rate = conditions.learning_rate * first_size / self.data.batch_size
            conditions = dataclasses.replace(conditions, learning_rate=rate)
        first = dataclasses.replace(
            verdict,
            estimate=verdict.estimate.at(round(first_size * unit)),
            conditions=conditions,
        )
        return size * unit <= first.not_ruled_out_up_to

    def _first_seen(self):
        """The first batch size that the check has seen."""
        series = self._check.series
        if not len(series):
            return self._first
        return series[
            : np.sum(series["epoch"] == series["epoch"][0])
        ].largest_rows


def _data_of(x, y, sample_weight, batch_size):
    if not callable(x):
        batch = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return _Rows(backend.ArrayRows(batch, "x"), batch_size)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                arguments.refusal(
                    name, "None where `x` is a function", type(value).__name__
                )
            )
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
        self._order = self._shuffled(epoch)

    def _shuffled(self, epoch):
        rng = np.random.default_rng([self._seed, epoch])
        return rng.permutation(self._rows.num_rows)

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
            raise ValueError(
                arguments.refusal(
                    "x",
                    "a function that makes data sets with a len()",
                    f"{type(self._batches).__name__} for {batch_size}",
                    "a tf.data.Dataset has one by apply("
                    "tf.data.experimental.assert_cardinality(batches))",
                )
            ) from None

    num_batches = 0

    def __getitem__(self, index):
        if index == 0:
            self._iterator = backend.batches_of(self._batches)
        return next(self._iterator)
