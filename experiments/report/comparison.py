"""Runs that differ in one thing and in their seeds."""

import dataclasses
import functools

# What does not change how a run trains or what it measures.
_IRRELEVANT = {
    "version",
    "validate_every",
    "lsr.enabled",
    "lsr.kappas",
    "lsr.per_layer",
    "micro_batch_size",
    # The numbers that follow from these stand in the configuration too.
    "scale",
    "scale_lr",
}


@dataclasses.dataclass
class Comparison:
    """Runs that differ in one quantity, and in their seeds.

    Attributes:
        groups: `{value: runs}` by the value of the quantity, in its order.
        beside: Another `Comparison`, which says more of one of these runs.
    """

    groups: dict
    beside: "Comparison | None" = None

    @property
    def runs(self):
        """All runs, in order."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def num_seeds(self):
        """Least number of runs at a value."""
        return min(map(len, self.groups.values()))

    @functools.cached_property
    def differing(self):
        """Keys of the configuration in which the runs differ, in order."""
        return differing_keys(self.runs)

    @functools.cached_property
    def common(self):
        """`{key: value}`, the configuration that they share, in order."""
        config, other = self.runs[0].config, _IRRELEVANT.union(self.differing)
        return {key: config[key] for key in sorted(config.keys() - other)}


def comparisons(runs, value_of, free, alike):
    """The `Comparison`s that runs allow, in the order of their first runs.

    Args:
        runs: `Run`s.
        value_of: Function from a run to the value in which it is compared, or
            None if it takes no part.
        free: Keys of the configuration that need not be equal; the seed never
            has to be.
        alike: Function from a run to what has to be equal besides, or None if
            it takes no part.
    """
    by_setting = {}
    for run in runs:
        value, other = value_of(run), alike(run)
        if value is not None and other is not None:
            groups = by_setting.setdefault((setting(run, free), other), {})
            groups.setdefault(value, []).append(run)
    return [
        Comparison(dict(sorted(groups.items())))
        for groups in by_setting.values()
        if len(groups) > 1
    ]


def setting(run, free=()):
    """What runs have in common that differ at most in seed and free keys."""
    free = _IRRELEVANT.union(free, {"seed"})
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in free
    )


def without_repeated(runs):
    """Splits runs into those of their own and repetitions of them.

    A second run of the same configuration and seed is no second sample.

    Returns:
        `(runs, repeated)`, two lists of `Run`s.
    """
    first = {}
    for run in runs:
        first.setdefault((setting(run), run.config["seed"]), run)
    own = [*first.values()]
    return own, [run for run in runs if run not in own]


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - _IRRELEVANT)
    # 1 and True are equal, but not the same setting.
    return [k for k in keys if len({repr(r.config.get(k)) for r in runs}) > 1]
