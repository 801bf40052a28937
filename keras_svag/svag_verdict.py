"""Whether SGD follows its SDE, decided from what runs of several ell show."""

import math

from keras_svag.scaling.verdict import BALANCE_TOLERANCE, Verdict


def svag_verdict(
    closeness, limit_closeness, condition, target, windows, num_seeds
):
    """`(verdict, reason)`; see `svag_study` for what decides.

    Args:
        closeness: `Closeness` of SGD to SVAG with the largest ell, or None.
        limit_closeness: `Closeness` of SGD to the estimate at ell → ∞, or None.
        condition: `NecessaryCondition`, or None.
        target: C.
        windows: `{ell: list of Window or None}`, one a run.
        num_seeds: Least number of runs of an ell.

    Returns:
        "supported", "contradicted" or "undetermined", and a clause.
    """
    if condition and _is_ruled_out(condition):
        if not condition.heuristic_reasons:
            return "contradicted", "SGD's N/G is too small for its SDE"
    if 1 not in windows:
        return "undetermined", "there is no finished run with ell 1, SGD itself"
    if closeness is None:
        return "undetermined", "R, G and N were not measured above 0 in all"
    if num_seeds < 2:
        return "undetermined", "one seed shows nothing of how runs vary"
    if closeness.low <= target < closeness.high:
        return "undetermined", "the interval contains C: more seeds narrow it"
    counts = equilibrium_counts(sum(windows.values(), []))
    if closeness.low > target:
        return _of_equilibria(
            "contradicted", "the whole interval lies above C", counts
        )
    if condition and _is_ruled_out(condition):
        return (
            "undetermined",
            "the interval lies below C, but N/G is too small by a condition "
            "that here is only a heuristic",
        )
    if limit_closeness and limit_closeness.low > target:
        return (
            "undetermined",
            "the interval lies below C, but that of the estimate at ell → ∞ "
            "lies above it: larger ell would decide",
        )
    reason = "the whole interval lies at or below C"
    if limit_closeness and limit_closeness.high > target:
        reason += ", though that of the estimate at ell → ∞ contains it"
    return _of_equilibria("supported", reason, counts)


def equilibrium_counts(windows):
    """`(at, off, unknown)`: how many runs are where, by their balance.

    Args:
        windows: `Window`s, a run each, or None where nothing was measured.
    """
    balances = [window and window.balance for window in windows]
    known = [b for b in balances if b is not None and math.isfinite(b)]
    at = sum(abs(balance - 1) <= BALANCE_TOLERANCE for balance in known)
    return at, len(known) - at, len(balances) - len(known)


def _is_ruled_out(condition):
    return condition.verdict == Verdict.RULED_OUT


def _of_equilibria(verdict, reason, counts):
    """What a verdict on the last epochs says of the equilibria."""
    _, off, unknown = counts
    total = sum(counts)
    if off:
        return (
            "undetermined",
            f"{reason}, but {off} of {total} runs had not reached equilibrium, "
            "where C-closeness is defined: longer runs would decide",
        )
    if unknown:
        reason += (
            f", at the end of the runs: whether {unknown} of {total} runs had "
            "reached equilibrium is not known"
        )
    return verdict, reason
