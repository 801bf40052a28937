"""How far a sweep is, and when it will be done."""


def time_left(costs, done, running, seconds, jobs, before=None):
    """Estimates the time until a sweep is done.

    A run is supposed to take a time proportional to its cost.

    Args:
        costs: dict from a run's name to its cost, in any unit.
        done: names of the runs that were run to their end.
        running: dict from the name of a running run to the fraction of it
            that is done.
        seconds: dict from the name of each run in `done` and `running` to
            the seconds that it took until now.
        jobs: how many run at a time.
        before: dict from names of runs that were resumed to the fraction of
            them that was done before those seconds.

    Returns:
        Seconds, a float, or None as long as nothing is done.
    """
    fractions = {**dict.fromkeys(done, 1.0), **running}
    # A run whose first epoch is not over counts for neither.
    new = {
        name: max(part - (before or {}).get(name, 0.0), 0.0)
        for name, part in fractions.items()
    }
    cost_done = sum(costs[name] * part for name, part in new.items())
    if not cost_done:
        return None
    seconds_per_cost = (
        sum(seconds[name] for name, part in new.items() if part) / cost_done
    )
    cost_left = sum(
        cost * (1 - fractions.get(name, 0.0)) for name, cost in costs.items()
    )
    return cost_left * seconds_per_cost / min(jobs, len(costs))


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
