"""Runs the runs of a sweep in processes of their own."""

import collections
import dataclasses
import os
import subprocess
import sys
import time

from experiments.process.interruption import SIGNALS, Interruption, exit_code

# How long a process may take to end after it was asked to: it ends the step
# that it is in, a whole pass of the data for NGD, and writes a checkpoint.
_GRACE_SECONDS = 120

# Exit codes of a process that was told to end, or that had no handler yet.
_INTERRUPTED = {
    code for number in SIGNALS for code in (exit_code(number), -number)
}

# What is said of a job that has ended, after so long a time.
_ENDINGS = {
    "finished": "is finished, in {}",
    "diverged": "has diverged, after {}",
    "interrupted": "was interrupted, after {}",
    "elsewhere": "is run by another process",
    "failed": "has failed, after {}",
}

_OTHERS = {
    "finished": "was finished",
    "diverged": "was run to a loss that is not finite",
    "elsewhere": "is run",
}

# Of a terminal: to its start, and erase what is right of it.
_CLEAR_LINE = "\r\x1b[K"


@dataclasses.dataclass
class Job:
    """A run, as the runner sees it.

    Args:
        name: of the run.
        log_file: path of the file that its output is appended to.
        command: list of strings, the program and its arguments.
        cost: a number > 0, proportional to the time that it takes.
        make_log: function without arguments that makes the file anew.
        state: function without arguments to what has become of it: "finished",
            "diverged", where its loss has become one that is not finite, which
            ends it for good, "elsewhere", where another process runs it, or
            None.
        fraction_done: function from the time it was started at, as
            `time.time()` gives it, to the fraction of it that is done.
    """

    name: str
    log_file: str
    command: list
    cost: float = 1.0
    make_log: object = lambda: None
    state: object = lambda: None
    fraction_done: object = lambda started: 0.0


# Asks Linux for SIGTERM when the parent dies, however it dies, and becomes the
# program, which keeps that request. A `preexec_fn` would need no interpreter,
# but runs in a fork of a process with threads. The parent may be dead already.
_TIED = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGTERM)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_process(job):
    """Starts a job's process, which is told to end when this one is gone.

    On Linux it gets SIGTERM even if this process is killed with SIGKILL;
    elsewhere it then goes on. Call it from a thread that outlives the process.
    Ctrl-C in a terminal does not reach it.

    Returns:
        A `subprocess.Popen`.
    """
    command = job.command
    if sys.platform == "linux":
        launcher = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        command = [*launcher, *command]
    with open(job.log_file, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class SweepRunner:
    """Runs jobs, some at a time, and says how far they are.

    A job that fails does not stop the others. One that has diverged is not
    run again, nor is one that another process runs or has finished meanwhile.
    If this process is told to end, by SIGINT or one of its kin, it tells the
    running ones and waits until they have saved their state; asked twice, it
    waits no longer.

    Args:
        jobs: list of `Job`s.
        parallel: how many run at a time.
        start: function from a `Job` to its process, an object with the
            methods of `subprocess.Popen`.
        output: a text file for the progress.
        poll_seconds: how often the processes are looked at.

    Attributes:
        ended: dict from the names of jobs to how they have ended: "finished",
            "diverged", now or before, "failed", "interrupted", where someone
            else has told the process to end, or "elsewhere", where another
            process runs it.
        codes: dict from the names of jobs to the exit codes of their processes.
        signal: number of the signal that ended the sweep, or None.

    Raises:
        ValueError: if `parallel` is below 1.
    """

    def __init__(
        self,
        jobs,
        parallel=1,
        start=start_process,
        output=sys.stdout,
        poll_seconds=0.5,
    ):
        if parallel < 1:
            raise ValueError(f"--jobs must be at least 1, got {parallel}.")
        self._jobs = {job.name: job for job in jobs}
        self._parallel = parallel
        self._start = start
        self._output = output
        self._poll_seconds = poll_seconds
        self.ended, self.codes, self.signal = {}, {}, None
        self._waiting = []
        for job in jobs:
            state = job.state()
            if state in ("finished", "diverged"):
                self.ended[job.name] = state
            else:
                self._waiting.append(job)
        self._processes = {}
        self._started = {}
        # What was done of each run when it was started.
        self._before = {}
        self._began = time.time()

    def count(self, how):
        """How many jobs have ended in a way."""
        return collections.Counter(self.ended.values())[how]

    def run(self):
        """Runs all jobs that are not finished, or until a signal comes."""
        for how, what in (
            ("finished", "are finished already"),
            ("diverged", "have diverged before and are not run again"),
        ):
            if self.count(how):
                self._print(
                    f"{self.count(how)} of {len(self._jobs)} runs {what}."
                )
        with Interruption() as interruption:
            try:
                while self._waiting or self._processes:
                    self._start_waiting()
                    self._show_progress()
                    time.sleep(self._poll_seconds)
                    self._collect_ended()
                    if interruption.signal is not None:
                        break
            finally:
                self._clear_progress()
                self._end_processes()
            self.signal = interruption.signal

    def _start_waiting(self):
        while self._waiting and len(self._processes) < self._parallel:
            job = self._waiting.pop(0)
            state = job.state()
            if state:
                self.ended[job.name] = state
                self._print(f"{job.name} {_OTHERS[state]} by another process.")
            else:
                self._before[job.name] = job.fraction_done(0.0)
                self._started[job.name] = time.time()
                job.make_log()
                self._processes[job.name] = self._start(job)

    def _collect_ended(self):
        for name, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[name]
            self.codes[name] = code
            self.ended[name] = how = self._ending(self._jobs[name], code)
            took = duration(time.time() - self._started[name])
            self._print(f"{name} {_ENDINGS[how].format(took)}.")
            if not self._output.isatty():
                self._print(self._progress())

    def _ending(self, job, code):
        state = "finished" if code == 0 else job.state()
        if state in ("finished", "diverged"):
            return state
        return "interrupted" if code in _INTERRUPTED else state or "failed"

    def _end_processes(self):
        processes = self._processes.values()
        for process in processes:
            process.terminate()
        if processes:
            self._print(
                f"Waiting up to {_GRACE_SECONDS} s for the running ones to "
                "save their state; a second Ctrl-C does not wait."
            )
        deadline = time.monotonic() + _GRACE_SECONDS
        try:
            for process in processes:
                process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()

    def _progress(self):
        """One line over the whole sweep."""
        running = {
            name: self._jobs[name].fraction_done(self._started[name])
            for name in self._processes
        }
        for name, part in running.items():
            if 0 < part < self._before[name]:
                # It has begun anew.
                self._before[name] = 0.0
        parts = [f"[{len(self.ended)}/{len(self._jobs)}]"]
        parts += [f"{name} {part:.0%}" for name, part in running.items()]
        for how in ("diverged", "failed", "interrupted", "elsewhere"):
            if self.count(how):
                parts.append(f"{self.count(how)} {how}")
        if len(self.ended) < len(self._jobs):
            parts.append(f"{duration(self._seconds_left(running))} left")
        return "  ".join(parts)

    def _seconds_left(self, running):
        """Of what was done until now the rest takes its part; None of none."""
        parts = running | {
            name: 1.0
            for name in self._before
            if self.ended.get(name) == "finished"
        }
        done = sum(
            self._jobs[name].cost * max(part - self._before[name], 0.0)
            for name, part in parts.items()
        )
        left = sum(job.cost for job in self._waiting) + sum(
            self._jobs[name].cost * (1 - part) for name, part in running.items()
        )
        return (time.time() - self._began) * left / done if done else None

    def _show_progress(self):
        self._clear_progress()
        if self._output.isatty():
            self._output.write(self._progress())
            self._output.flush()

    def _clear_progress(self):
        if self._output.isatty():
            self._output.write(_CLEAR_LINE)

    def _print(self, line):
        self._clear_progress()
        print(line, file=self._output, flush=True)


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
