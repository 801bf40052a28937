"""Directories to which one process at a time writes."""

import fcntl
import os


def lock(path, shared=False):
    """Locks a directory until the descriptor is closed or the process ends.

    If `shared`, others may lock it in the same way meanwhile.

    Returns:
        A descriptor; None if another process has locked the directory.
    """
    directory = os.open(path, os.O_RDONLY)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
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
        directory = lock(path, shared=True)
    except OSError:
        return False
    if directory is not None:
        os.close(directory)
    return directory is None
