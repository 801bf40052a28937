"""Files written whole or not at all, and told from those of others."""

import contextlib
import os
import re
import secrets

from keras_svag.arguments import printable

_LOG_HEAD = b"# A run of a sweep of train.py, "
_PARTIAL = re.compile(r".+\.[0-9a-f]{16}\.partial(\.\w+)?")


@contextlib.contextmanager
def replaced(path):
    """Path of a new file that replaces `path` when the context ends.

    It is removed if an exception ends the context; `remove_partial` knows what
    a killed process leaves. A link is replaced, not the file it leads to.
    """
    stem, extension = os.path.splitext(path)
    partial = f"{stem}.{secrets.token_hex(8)}.partial{extension}"
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def is_partial(name):
    """Whether a file has the name of one that `replaced` did not finish."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partial(folder):
    """Removes unfinished files from a folder; returns whether it had some."""
    names = list(filter(is_partial, os.listdir(folder)))
    for name in names:
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, name))
    return bool(names)


def foreign(
    path, wanted="what this run of train.py writes there", option="--workdir"
):
    """The `ValueError` about what stands where something is to be written."""
    return ValueError(
        f"{path} is not {wanted}, and is left as it is: move it away, or give "
        f"another {option}."
    )


def unreadable(path, error):
    """The `ValueError` about what may not be read, of an `OSError`."""
    return ValueError(
        f"{path} cannot be read ({error.strerror}): allow it, or move it away."
    )


def is_log(path):
    """Whether a file is the log that a sweep made for one of its runs."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_LOG_HEAD)) == _LOG_HEAD
    except OSError:
        return False


def check_log(path):
    """Raises a `ValueError` if a sweep's log cannot take a file's place."""
    if os.path.lexists(path) and not is_log(path):
        raise foreign(path)


def make_log(path, name):
    """Makes the log of a run of a sweep, in place of an earlier one."""
    check_log(path)
    with replaced(path) as partial, open(partial, "xb") as file:
        file.write(_LOG_HEAD + printable(name).encode() + b"\n")
