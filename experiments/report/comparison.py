"""Groups runs into comparisons: runs that differ in one thing and in seed."""

import dataclasses

# What does not change how a run trains or what it measures.
_IRRELEVANT = {
    "version",
    "run_id",
    "validate_every",
    "lsr.enabled",
    "lsr.kappas",
    "lsr.per_layer",
    "micro_batch_size",
    # The numbers that follow from these stand in the configuration too.
    "scale",
    "scale_lr",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs that differ in one quantity, and in their seeds.

    Attributes:
        groups: `{value: runs}` by the value of the quantity, in its order.
        common: `{key: value}`, the configuration that they share.
        differing: Keys that differ besides, in order.
    """

    groups: dict
    common: dict
    differing: tuple[str, ...]

    @property
    def runs(self):
        """All runs, in order."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def num_seeds(self):
        """Least number of runs at a value."""
        return min(map(len, self.groups.values()))


def without_repeated(runs):
    """Splits runs into those of their own and repetitions of them.

    A second run of the same configuration and seed is no second sample.

    Returns:
        `(runs, repeated)`, two lists of `Run`s.
    """
    first, repeated = {}, []
    for run in runs:
        setting = _setting(run, set()), repr(run.config.get("seed"))
        if first.setdefault(setting, run) is not run:
            repeated.append(run)
    return list(first.values()), repeated


def comparisons(runs, quantity, free, also_alike=lambda run: None):
    """The `Comparison`s that runs allow, in the order of their first runs.

    Args:
        runs: `Run`s.
        quantity: Function from a run to the value in which it is compared, or
            None if it takes no part.
        free: Keys of the configuration that need not be equal; the seed never
            has to be.
        also_alike: Function from a run to what has to be equal besides.
    """
    by_setting = {}
    for run in runs:
        value = quantity(run)
        if value is not None:
            setting = _setting(run, free), also_alike(run)
            groups = by_setting.setdefault(setting, {})
            groups.setdefault(value, []).append(run)
    return [
        _comparison(dict(sorted(groups.items())))
        for groups in by_setting.values()
        if len(groups) > 1
    ]


def has_numbers(run, *keys):
    """Whether the configuration of a run has numbers at these keys."""
    return all(isinstance(run.config.get(key), (int, float)) for key in keys)


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - _IRRELEVANT)
    return [
        key for key in keys if len({_of(run.config, key) for run in runs}) > 1
    ]


def _of(config, key):
    # 1 and True are equal, but not the same setting.
    return repr(config.get(key))


def same_setting(first, second, free):
    """Whether two runs differ at most in their seeds and in free keys."""
    return _setting(first, free) == _setting(second, free)


def _setting(run, free):
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in _IRRELEVANT | {"seed"} | free
    )


def _comparison(groups):
    runs = [run for group in groups.values() for run in group]
    differing = differing_keys(runs)
    common = {
        key: value
        for key, value in runs[0].config.items()
        if key not in differing and key not in _IRRELEVANT
    }
    return Comparison(groups, common, tuple(differing))
