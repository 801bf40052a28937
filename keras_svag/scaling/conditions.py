"""What the theorem's assumptions need to know about a run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunConditions:
    """What the theorem's assumptions need to know about a run.

    Attributes:
        optimizer: Name of the optimizer's class.
        weight_decay: λ of the optimizer.
        momentum: The optimizer's.
        ell: SVAG's amplification, 1 for any other optimizer.
        all_weights_decayed: Whether λ acts on every trainable weight.
        scale_invariant: Whether the loss is; None if not known.
        batch_norm_halves: Whether halves of a batch were normalized apart.
        other_reasons: Phrases why the theorem does not apply.
    """

    optimizer: str = "SGD"
    weight_decay: float = 0.0
    momentum: float = 0.0
    ell: int = 1
    all_weights_decayed: bool = True
    scale_invariant: bool | None = None
    batch_norm_halves: bool = False
    other_reasons: tuple[str, ...] = ()

    @property
    def balance_is_defined(self):
        """Whether an equilibrium identity holds for the run."""
        return (
            self.optimizer in ("SGD", "SVAG")
            and bool(self.scale_invariant)
            and self.weight_decay > 0
            and self.all_weights_decayed
            and not self.momentum
            and not self.other_reasons
        )
