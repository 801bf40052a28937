"""A sweep as the command line asks for it."""

import collections
import os
import signal
import sys

from experiments.process.interruption import exit_code
from experiments.sweep.grid import swept_runs
from experiments.sweep.runner import Job, run_jobs
from experiments.sweep.shard import dealt, shard_of

_BEFORE = {
    "finished": "are finished already",
    "diverged": "have diverged before and are not run again",
}


def run_sweep(specifications, config, workdir, arguments, parallel, shard=None):
    """Runs a sweep, each run as a process of the program that calls it.

    Runs that are finished are skipped, as are those whose loss has become one
    that is not finite: they would do so again. Each writes to a folder of its
    own in `workdir`, and what it prints to `output.log` there.

    The `arguments` are the program and what it was started with, `parallel` is
    how many runs run at a time, and `shard` the part of the runs, as `shard_of`
    takes it. A `ValueError` tells why the sweep cannot be run.

    Returns:
        The exit code: that of the signal which ended the sweep (130 for
        SIGINT, else 143), 1 if a run failed, 130 if someone else interrupted
        a run; the same command goes on in all of these. Otherwise 0: every
        run is finished, has diverged or is run by another process.
    """
    if parallel < 1:
        raise ValueError(f"--jobs must be at least 1, got {parallel}.")
    command = [sys.executable, *arguments]
    index, count = shard_of(shard, os.environ)
    jobs = [
        Job(run, os.path.join(workdir, run.name), command)
        for run in swept_runs(specifications, config)
    ]
    if count > 1:
        own = dealt(jobs, lambda job: job.cost, index, count)
        share = f"{len(own)} of the {len(jobs)} runs"
        print(f"Shard {index} of {count}: {share}.", flush=True)
        jobs = own
    for job in jobs:
        if not job.ended:
            job.check_folder()
    counts = collections.Counter(job.ended for job in jobs)
    for how, what in _BEFORE.items():
        if counts[how]:
            print(f"{counts[how]} of {len(jobs)} runs {what}.", flush=True)
    ended_by = run_jobs(jobs, parallel)
    for job in jobs:
        if job.ended and job.ended != "finished":
            print(job)
        if job.ended == "failed":
            print(f"    {job.last_line}")
    counts = collections.Counter(job.ended for job in jobs)
    done = f"{counts['finished']} of {len(jobs)} runs are finished"
    for how in ("diverged", "elsewhere"):
        done += f", {counts[how]} {how}" if counts[how] else ""
    if ended_by is not None:
        print(f"Interrupted: {done}; the same command goes on from here.")
        return exit_code(ended_by)
    print(f"{done}, in {workdir}.")
    if counts["failed"]:
        return 1
    return exit_code(signal.SIGINT) if counts["interrupted"] else 0
