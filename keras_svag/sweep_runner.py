"""Runs the runs of a sweep in processes of their own."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import threading
import time

from keras_svag.sweep_progress import duration, progress_line, time_left

# How long a process may take to end after it was asked to.
_GRACE_SECONDS = 30

# Of a terminal: to its start, and erase what is right of it.
_CLEAR_LINE = "\r\x1b[K"


@dataclasses.dataclass
class Job:
    """A run, as the runner sees it.

    Args:
        name: of the run.
        log_file: path of the file that its output goes to.
        command: list of strings, the program and its arguments.
        cost: a number > 0, proportional to the time that it takes.
        is_finished: boolean, whether it was finished before.
        fraction_done: function from the time it was started at, as
            `time.time()` gives it, to the fraction of it that is done.
    """

    name: str
    log_file: str
    command: list
    cost: float = 1.0
    is_finished: bool = False
    fraction_done: object = lambda started: 0.0


def start_process(job):
    """Starts a job's process; its output goes to the log file."""
    with open(job.log_file, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process alone, which then ends the others.
            start_new_session=True,
        )


class SweepRunner:
    """Runs jobs, some at a time, and says how far they are.

    A job that fails does not stop the others. If this process is interrupted
    or told to terminate, it ends the running ones.

    Args:
        jobs: list of `Job`s.
        parallel: how many run at a time.
        start: function from a `Job` to its process, an object with the
            methods of `subprocess.Popen`.
        output: a text file for the progress.
        poll_seconds: how often the processes are looked at.

    Attributes:
        failed: dict from the names of the jobs that failed to the exit codes
            of their processes.
        finished: names of the finished jobs.

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
        self.failed = {}
        self.finished = [job.name for job in jobs if job.is_finished]
        self._waiting = [job for job in jobs if not job.is_finished]
        self._processes = {}
        self._started = {}
        self._seconds = {}

    def run(self):
        """Runs all jobs that are not finished.

        Raises:
            KeyboardInterrupt: if it was interrupted, after the processes
                have ended.
        """
        if self.finished:
            self._print(
                f"{len(self.finished)} of {len(self._jobs)} runs are finished "
                "already."
            )
        with _terminate_as_interrupt():
            try:
                while self._waiting or self._processes:
                    self._start_waiting()
                    self._show_progress()
                    time.sleep(self._poll_seconds)
                    self._collect_ended()
            finally:
                self._clear_progress()
                self._end_processes()

    def _start_waiting(self):
        while self._waiting and len(self._processes) < self._parallel:
            job = self._waiting.pop(0)
            self._started[job.name] = time.time()
            self._processes[job.name] = self._start(job)

    def _collect_ended(self):
        now = time.time()
        for name, process in list(self._processes.items()):
            self._seconds[name] = now - self._started[name]
            code = process.poll()
            if code is None:
                continue
            del self._processes[name]
            took = duration(self._seconds[name])
            if code == 0:
                self.finished.append(name)
                self._print(f"{name} is finished, in {took}.")
            else:
                self.failed[name] = code
                self._print(f"{name} has failed, after {took}.")
            if not self._output.isatty():
                self._print(self._progress())

    def _end_processes(self):
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _progress(self):
        running = {
            name: self._jobs[name].fraction_done(self._started[name])
            for name in self._processes
        }
        unfinished = {
            name: job.cost
            for name, job in self._jobs.items()
            if not job.is_finished and name not in self.failed
        }
        ended = [name for name in self.finished if name in self._seconds]
        left = None
        if unfinished:
            seconds = {**dict.fromkeys(running, 0.0), **self._seconds}
            left = time_left(
                unfinished, ended, running, seconds, self._parallel
            )
        return progress_line(
            len(self._jobs), len(self.finished), len(self.failed), running, left
        )

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


@contextlib.contextmanager
def _terminate_as_interrupt():
    """Context in which SIGTERM is what Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals.
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
