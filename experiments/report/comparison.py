"""Groups runs into comparisons: runs that differ in one thing and in seed."""

import dataclasses

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

# What only some optimizers have, and a comparison of optimizers lets differ.
_OF_OPTIMIZER = {
    "ell",
    "pairing",
    "sampling",
    "measure_noise",
}
_SGD = ("sgd", "svag")


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


def svag_comparisons(runs):
    """Comparisons of ell: everything else but the seed is equal."""
    svag = [
        run
        for run in runs
        if run.config.get("optimizer") == "svag" and _has_numbers(run, "ell")
    ]
    return _comparisons(
        svag,
        value=lambda run: run.config["ell"],
        setting=lambda run: _setting(run, {"ell"}),
    )


def scaling_comparisons(runs):
    """Comparisons of batch size with the learning rate in proportion."""

    def setting(run):
        config = run.config
        rate = config["learning_rate"] / config["batch_size"]
        # Rates are decimal fractions: products of them round.
        return _setting(run, {"batch_size", "learning_rate"}), f"{rate:.6g}"

    numbered = [
        run for run in runs if _has_numbers(run, "batch_size", "learning_rate")
    ]
    return _comparisons(
        numbered, value=lambda run: run.config["batch_size"], setting=setting
    )


def ngd_comparisons(runs):
    """Comparisons of NGD with SGD, where they have the rest in common."""

    def value(run):
        return "NGD" if run.config["optimizer"] == "ngd" else "SGD"

    plain = [
        run
        for run in runs
        if run.config.get("optimizer") == "ngd"
        or run.config.get("optimizer") in _SGD
        and run.config.get("ell", 1) == 1
    ]
    return _comparisons(
        plain,
        value=value,
        setting=lambda run: _setting(run, {"optimizer"} | _OF_OPTIMIZER),
    )


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - _IRRELEVANT)
    return [
        key for key in keys if len({_of(run.config, key) for run in runs}) > 1
    ]


def _has_numbers(run, *keys):
    return all(isinstance(run.config.get(key), (int, float)) for key in keys)


def _of(config, key):
    # 1 and True are equal, but not the same setting.
    return repr(config.get(key))


def _setting(run, free):
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in _IRRELEVANT | {"seed"} | free
    )


def _comparisons(runs, value, setting):
    by_setting = {}
    for run in runs:
        by_setting.setdefault(setting(run), []).append(run)
    comparisons = []
    for alike in by_setting.values():
        groups = {}
        for run in alike:
            groups.setdefault(value(run), []).append(run)
        if len(groups) > 1:
            comparisons.append(_comparison(dict(sorted(groups.items()))))
    return comparisons


def _comparison(groups):
    runs = [run for group in groups.values() for run in group]
    differing = differing_keys(runs)
    common = {
        key: value
        for key, value in runs[0].config.items()
        if key not in differing and key not in _IRRELEVANT
    }
    return Comparison(groups, common, tuple(differing))
