"""How far a sweep is, and when it will be done."""


def progress_line(total, finished, otherwise, running, seconds_left):
    """One line over the whole sweep.

    Args:
        total: number of runs of the sweep.
        finished: number of runs that are finished.
        otherwise: dict from how other runs have ended, such as "failed", to
            their number.
        running: dict from the names of the running runs to the fractions of
            them that are done.
        seconds_left: a float, or None if it is not known.
    """
    ended = finished + sum(otherwise.values())
    parts = [f"[{ended}/{total}]"]
    parts += [f"{name} {part:.0%}" for name, part in running.items()]
    parts += [f"{number} {how}" for how, number in otherwise.items() if number]
    if ended < total:
        parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)


def duration(seconds):
    """Seconds in words: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return "unknown time"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
