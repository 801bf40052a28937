"""Numbers for people: how many digits each kind of number has."""

import math


def number(value):
    """A number to three digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def interval(low, high):
    """An interval, such as `[1.2, ∞)`."""
    return f"[{number(low)}, {number(high)}{')' if math.isinf(high) else ']'}"


def within(low, value, high):
    """A value with its interval, such as `1.5 [1.2, 1.9]`."""
    return f"{number(value)} {interval(low, high)}"


def with_error(value, error):
    """A value with its standard error, to the error's two digits."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return number(value)
    places = max(1 - math.floor(math.log10(error)), 0)
    if abs(value) < 1e-3 or places > 6:
        return f"{value:.3g} ± {error:.2g}"
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def percent_with_error(value, error):
    """A share in per cent with its standard error in percentage points."""
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(error):
        return f"{value:.2%}"
    return f"{value:.2%} ± {error:.2%}"


def exact(value):
    """A setting as it is given to an optimizer, to six digits."""
    return f"{value:.6g}"


def whole(value):
    """A number of examples, steps or observations."""
    return f"{value:,.0f}" if math.isfinite(value) else number(value)


def percent(share):
    """A share in whole per cent; a dash where there is none."""
    return "–" if math.isnan(share) else f"{share:.0%}"
