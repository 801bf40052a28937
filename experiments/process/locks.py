"""Directories to which one process at a time writes."""

import fcntl
import os


def lock(path, kind=fcntl.LOCK_EX):
    """Locks a directory until the descriptor that it returns is closed.

    It returns None if another process has locked the directory.
    """
    directory = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(directory, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        return None
    except OSError:
        pass  # A file system without locks.
    return directory


def is_locked(path):
    """Whether a process writes to a directory, as a run does to its own."""
    try:
        # Shared, so that of two that look at once none sees the other.
        directory = lock(path, fcntl.LOCK_SH)
    except OSError:
        return False
    if directory is not None:
        os.close(directory)
    return directory is None
