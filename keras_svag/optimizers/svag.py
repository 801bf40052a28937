"""SVAG, the simulation of SGD's SDE by an optimizer."""

import contextlib
import math
import warnings

import keras
from keras import ops

from keras_svag import arguments

# In a regular expression; none is in a variable's path.
_SPECIAL = frozenset("^$*+?[]{}()|\\")

PAIRINGS = ("independent", "halves")


def svag_weights(ell, pairing="independent"):
    """Weights that mix the gradients of two sub-batches into one SVAG step.

    The two weights sum to 1, so that the mean of the mixed gradient is the
    loss gradient, and its covariance is `ell` times that of SGD's gradient at
    the simulated batch size B:

    - `"independent"`: sub-batches of size B, `(1 ± sqrt(2 ell - 1)) / 2`;
    - `"halves"`: sub-batches of size B/2, `(1 ± sqrt(ell - 1)) / 2`.

    Args:
        ell: integer >= 1, the amplification. 1 is SGD.
        pairing: `"independent"` or `"halves"`.

    Returns:
        `(w1, w2)`, floats.

    Raises:
        TypeError: if `ell` is no number.
        ValueError: if `ell` or `pairing` is not one of the above.

    References:
        `"independent"`: Li, Malladi, Arora, "On the Validity of Modeling SGD
        with Stochastic Differential Equations (SDEs)", NeurIPS 2021,
        arXiv:2102.12470. `"halves"`: derived, from
        w1 + w2 = 1 and 2 (w1² + w2²) = ell.
    """
    ell = arguments.integer("ell", ell)
    arguments.choice("pairing", pairing, PAIRINGS)
    spread = math.sqrt(2 * ell - 1 if pairing == "independent" else ell - 1)
    return (1 + spread) / 2, (1 - spread) / 2


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAG(keras.optimizers.Optimizer):
    """Stochastic Variance Amplified Gradient: simulates the SDE of SGD.

    Update rule for parameter `x` with gradients `g1`, `g2` of two
    mini-batches, all hyperparameters being those of the SGD that is simulated:

    ```python
    w1, w2 = svag_weights(ell, pairing)
    x = x - learning_rate / ell * (w1 * g1 + w2 * g2 + weight_decay * x)
    ```

    As `ell` grows, with `learning_rate` and the simulated time fixed, this is
    an order-1 weak approximation in 1/`ell` of SGD's Itô SDE
    `dX = -∇L(X) dt + (learning_rate Σ(X))^(1/2) dW`. One SGD step takes `ell`
    SVAG steps; `ell=1` is SGD.

    On a plain model (`model.compile(optimizer=SVAG(...))`) each pair is two
    consecutive batches: the first one's gradient is kept, the second one
    completes the step. Inside a `keras_svag.SVAGModel` the pair is made of the
    even and the odd rows of each batch, and nothing is kept.

    Args:
        learning_rate: SGD's learning rate: a float >= 0, a
            `keras.optimizers.schedules.LearningRateSchedule`, which is given
            whole SGD steps, or a callable without arguments.
        ell: integer >= 1, the amplification.
        pairing: `"independent"` (the sub-batches have SGD's batch size B) or
            `"halves"` (they have size B/2, at half the cost; for models whose
            per-example gradients do not depend on the rest of the batch).
        weight_decay: `None` or a float >= 0: adds `weight_decay * x` to the
            gradient; it is never amplified.
        name: name of the optimizer.
        **kwargs: `loss_scale_factor`, as for any Keras optimizer.

    Attributes:
        gradient_weights: `(w1, w2)`, floats.
        learning_rate: SGD's learning rate; settable. The step taken is
            `learning_rate / ell`.
        effective_iterations: SVAG steps done / `ell`, a float: SGD steps.
        continuous_time: sum over the steps of `learning_rate / ell`: the time
            of the SDE, a float64 variable.

    Raises:
        TypeError: if an argument is no number where one is wanted.
        ValueError: if an argument is out of range, or is one that SVAG cannot
            honour: momentum, clipping, `use_ema`,
            `gradient_accumulation_steps`; when it is built, if it was created
            outside the strategy of the model.

    References:
        - [Li, Malladi, Arora, 2021](https://arxiv.org/abs/2102.12470),
          Theorem 4.3
    """

    def __init__(
        self,
        learning_rate=0.01,
        ell=1,
        pairing="independent",
        weight_decay=None,
        name="svag",
        **kwargs,
    ):
        _refuse_unsupported(kwargs)
        excluded = kwargs.pop("excluded_from_weight_decay", None)
        weights = svag_weights(ell, pairing)
        if weight_decay is not None:
            weight_decay = float(
                arguments.number("weight_decay", weight_decay, least=0)
            )
        super().__init__(
            learning_rate=_checked_learning_rate(learning_rate),
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self.ell = int(ell)
        self.pairing = pairing
        self.gradient_weights = weights
        self.continuous_time = self.add_variable(
            shape=(),
            dtype="float64",
            aggregation="only_first_replica",
            name="continuous_time",
        )
        self._excluded = excluded or {"paths": [], "names": [], "mask": []}
        self._pairs_within_step = False
        self._given_mixed_gradients = False

    def build(self, variables):
        if self.built:
            return
        if _replicated(self._iterations) != all(map(_replicated, variables)):
            raise ValueError(
                f"The optimizer {self.name!r} was not created under the "
                "distribution strategy of the variables, so its counters would "
                "be wrong; create SVAG(...) inside `with strategy.scope():`, "
                "as the model."
            )
        super().build(variables)
        mask = self._excluded_from_weight_decay(variables)
        super().exclude_from_weight_decay(
            [v for v, excluded in zip(variables, mask, strict=True) if excluded]
        )
        if self._pairs_within_step:
            return
        self._first_gradients = self.add_optimizer_variables(
            variables, "first_gradient"
        )
        if self.gradient_weights == (1, 0):
            remedy = "; pairing='halves' uses both" if self.ell == 1 else ""
            warnings.warn(
                f"With ell={self.ell} and pairing={self.pairing!r} the second "
                "batch of each pair has weight 0: a plain model ignores every "
                f"second batch{remedy}.",
                stacklevel=2,
            )

    def pair_within_step(self):
        """Takes gradients that are mixed already: no pending gradient is kept.

        Called by a wrapper that computes both gradients of a pair within one
        step, before it builds the optimizer.

        Raises:
            ValueError: if the optimizer was built for pairing batches.
        """
        if self.built and not self._pairs_within_step:
            raise ValueError(
                f"The optimizer {self.name!r} already trains a plain model by "
                "pairing its batches and cannot serve an SVAGModel too; give "
                "each model its own SVAG(...)."
            )
        self._pairs_within_step = True

    @contextlib.contextmanager
    def mixed_gradients(self):
        """Context in which `apply` is given gradients that are mixed."""
        self._given_mixed_gradients = True
        try:
            yield
        finally:
            self._given_mixed_gradients = False

    def mix(self, first, second):
        """`w1 * first + w2 * second`; `second` is not read where w2 is 0."""
        w1, w2 = self.gradient_weights
        if w2 == 0:
            return first
        return ops.add(ops.multiply(first, w1), ops.multiply(second, w2))

    def apply(self, grads, trainable_variables=None):
        if self._pairs_within_step and not self._given_mixed_gradients:
            raise ValueError(
                f"The optimizer {self.name!r} belongs to an SVAGModel and "
                "cannot train a plain model too; give each model its own "
                "SVAG(...)."
            )
        grads = list(grads)
        elapsed = ops.where(
            self._completes_pair(),
            ops.cast(self.learning_rate, "float64") / self.ell,
            ops.zeros((), "float64"),
        )
        super().apply(grads, trainable_variables)
        if grads:
            self.continuous_time.assign_add(elapsed)

    def update_step(self, gradient, variable, learning_rate):
        step_size = ops.cast(learning_rate, variable.dtype) / self.ell
        gradient = ops.cast(gradient, variable.dtype)
        if self._pairs_within_step:
            step = self._step(gradient, variable, step_size)
        else:
            if hasattr(gradient, "dense_shape"):
                # Assigned as it is, a sparse gradient would be scattered.
                gradient = ops.add(ops.zeros_like(variable), gradient)
            kept = self._first_gradients[self._get_variable_index(variable)]
            first = ops.convert_to_tensor(kept)
            mixed = self.mix(first, gradient)
            # Branch-free: a collective inside a branch fails when replicated.
            completes_pair = self._completes_pair()
            step = ops.where(
                completes_pair,
                self._step(mixed, variable, step_size),
                ops.zeros_like(gradient),
            )
            self.assign(kept, gradient)
        self.assign_sub(variable, step)

    def _step(self, mixed, variable, step_size):
        step = ops.multiply(mixed, step_size)
        if self.weight_decay and self._use_weight_decay(variable):
            decay = ops.multiply(step_size, self.weight_decay)
            step = ops.add(step, ops.multiply(variable, decay))
        return step

    def _apply_weight_decay(self, variables):
        # Keras would decay at every batch, by learning_rate and not by
        # learning_rate / ell: `update_step` does it.
        pass

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from weight decay; saved with the optimizer.

        Args:
            var_list: variables to exclude.
            var_names: strings: a variable whose path contains one of them is
                excluded. They are no regular expressions, as Keras takes them:
                one that a file brings could take for ever.

        Raises:
            ValueError: if the optimizer is built, or a name is a regular
                expression.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` was called on an optimizer that "
                "is built already; call it before `fit` and before "
                "`optimizer.build`."
            )
        for name in var_names or ():
            if not _SPECIAL.isdisjoint(name):
                raise ValueError(
                    arguments.refusal(
                        "var_names",
                        "parts of paths, not regular expressions",
                        name,
                    )
                )
        self._excluded = {
            "paths": sorted(_path(v) for v in var_list or ()),
            "names": sorted(var_names or ()),
            "mask": [],
        }

    def _excluded_from_weight_decay(self, variables):
        """Whether each variable is excluded: a list of booleans, once built."""
        names, paths = self._excluded["names"], self._excluded["paths"]
        # Loading a model can rename its variables, but keeps their order.
        if len(self._excluded["mask"]) != len(variables):
            self._excluded["mask"] = [
                path in paths or any(name in path for name in names)
                for path in map(_path, variables)
            ]
        return self._excluded["mask"]

    @property
    def learning_rate(self):
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        # `fset` is how a setter calls the one that it overrides.
        keras.optimizers.Optimizer.learning_rate.fset(
            self, _checked_learning_rate(learning_rate)
        )

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            return schedule(ops.floor_divide(self._steps(), self.ell))
        return super()._get_current_learning_rate()

    @property
    def effective_iterations(self):
        return float(ops.convert_to_numpy(self._steps())) / self.ell

    def _steps(self):
        if self._pairs_within_step:
            return self._iterations
        return ops.floor_divide(self._iterations, 2)

    def _completes_pair(self):
        if self._pairs_within_step:
            return True
        return ops.equal(ops.mod(self._iterations, 2), 1)

    def get_config(self):
        config = super().get_config()
        config.update({"ell": self.ell, "pairing": self.pairing})
        if self._excluded["paths"] or self._excluded["names"]:
            config["excluded_from_weight_decay"] = {
                key: list(values) for key, values in self._excluded.items()
            }
        return config


def _replicated(variable):
    return hasattr(getattr(variable, "value", None), "distribute_strategy")


def _path(variable):
    return getattr(variable, "path", variable.name)


_CLIPPING = (
    "clipping the mixed gradient biases the SDE, and clipping its parts apart "
    "is not the clipping of a batch"
)
_MOMENTUM = "SVAG's theory is that of SGD without momentum"
_REFUSED = {
    "momentum": _MOMENTUM,
    "nesterov": _MOMENTUM,
    "clipnorm": _CLIPPING,
    "clipvalue": _CLIPPING,
    "global_clipnorm": _CLIPPING,
    "use_ema": "Keras moves the average at every batch, SVAG steps once per "
    "pair",
    "gradient_accumulation_steps": "SVAG mixes gradients by pairs, with "
    "weights of its own",
}


def _refuse_unsupported(kwargs):
    """Takes what SVAG cannot honour out of a Keras optimizer's arguments."""
    for name, reason in _REFUSED.items():
        value = kwargs.pop(name, None)
        if value is not None and value is not False:
            raise ValueError(
                arguments.refusal(name, "left out of SVAG", value, reason)
            )


def _checked_learning_rate(learning_rate):
    """Keras's kinds of learning rates as they are, a number as a float."""
    if callable(learning_rate) or isinstance(learning_rate, dict):
        return learning_rate
    if ops.is_tensor(learning_rate) or isinstance(
        learning_rate, keras.Variable
    ):
        learning_rate = float(learning_rate)
    return float(arguments.number("learning_rate", learning_rate, least=0))
