"""Runs the runs of a sweep in processes of their own."""

import dataclasses
import os
import subprocess
import sys
import time

from experiments.process.interruption import SIGNALS, Interruption, exit_code
from experiments.sweep.progress import duration, progress_line

# How long a process may take to end after it was asked to: it ends the step
# that it is in, a whole pass of the data for NGD, and writes a checkpoint.
_GRACE_SECONDS = 120

# Exit codes of a process that was told to end, or that had no handler yet.
_INTERRUPTED = {
    code for number in SIGNALS for code in (exit_code(number), -number)
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
        is_finished: function without arguments to whether it is finished.
        has_diverged: function without arguments to whether its loss has
            become one that is not finite, which ends it for good.
        is_elsewhere: function without arguments to whether another process
            runs it.
        fraction_done: function from the time it was started at, as
            `time.time()` gives it, to the fraction of it that is done.
    """

    name: str
    log_file: str
    command: list
    cost: float = 1.0
    make_log: object = lambda: None
    is_finished: object = lambda: False
    has_diverged: object = lambda: False
    is_elsewhere: object = lambda: False
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
        finished: names of the finished jobs.
        diverged: names of those that have diverged, now or before.
        failed: dict from the names of the jobs that failed to the exit codes
            of their processes.
        interrupted: names of the jobs whose process someone else has told to
            end.
        elsewhere: names of the jobs that another process runs.
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
        self.finished = [job.name for job in jobs if job.is_finished()]
        rest = [job for job in jobs if job.name not in self.finished]
        self.diverged = [job.name for job in rest if job.has_diverged()]
        self._waiting = [job for job in rest if job.name not in self.diverged]
        self.failed = {}
        self.interrupted = []
        self.elsewhere = []
        self.signal = None
        self._processes = {}
        self._started = {}
        # What was done of each run when it was started.
        self._before = {}
        self._began = time.time()

    def run(self):
        """Runs all jobs that are not finished, or until a signal comes."""
        if self.finished:
            self._print(
                f"{len(self.finished)} of {len(self._jobs)} runs are finished "
                "already."
            )
        if self.diverged:
            self._print(
                f"{len(self.diverged)} of {len(self._jobs)} runs have diverged "
                "before and are not run again."
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
            if job.is_finished():
                self.finished.append(job.name)
                self._print(f"{job.name} was finished by another process.")
            elif job.is_elsewhere():
                self.elsewhere.append(job.name)
                self._print(f"{job.name} is run by another process.")
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
            self._print(f"{name} {self._ending(name, code)}.")
            if not self._output.isatty():
                self._print(self._progress())

    def _ending(self, name, code):
        """Files how a job has ended; returns it in words."""
        took = duration(time.time() - self._started[name])
        if code == 0 or self._jobs[name].is_finished():
            self.finished.append(name)
            return f"is finished, in {took}"
        if self._jobs[name].has_diverged():
            self.diverged.append(name)
            return f"has diverged, after {took}"
        if code in _INTERRUPTED:
            self.interrupted.append(name)
            return f"was interrupted, after {took}"
        if self._jobs[name].is_elsewhere():
            self.elsewhere.append(name)
            return "is run by another process"
        self.failed[name] = code
        return f"has failed, after {took}"

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
        running = {
            name: self._jobs[name].fraction_done(self._started[name])
            for name in self._processes
        }
        for name, part in running.items():
            if 0 < part < self._before[name]:
                # It has begun anew.
                self._before[name] = 0.0
        otherwise = {
            "diverged": len(self.diverged),
            "failed": len(self.failed),
            "interrupted": len(self.interrupted),
            "elsewhere": len(self.elsewhere),
        }
        return progress_line(
            len(self._jobs),
            len(self.finished),
            otherwise,
            running,
            self._seconds_left(running),
        )

    def _seconds_left(self, running):
        """Of what was done until now the rest takes its part; None of none."""
        ended = {name: 1.0 for name in self.finished if name in self._before}
        done = sum(
            self._jobs[name].cost * max(part - self._before[name], 0.0)
            for name, part in {**ended, **running}.items()
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
