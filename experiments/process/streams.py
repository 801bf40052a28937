"""Standard streams on which nothing that a process does depends."""

import io
import os
import sys


class _Unheard(io.FileIO):
    """A file for writing in which what cannot be written is lost."""

    def write(self, data):
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def visible(text):
    """Lines in which what would act on their reader is shown as escapes.

    Such are control characters but tabs and ends of lines, marks that turn the
    direction of writing, and what UTF-8 cannot hold.
    """
    return "".join(
        c
        if c.isprintable() or c in "\n\t"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def protect_streams():
    """Has the process go on whoever listens to it.

    What cannot be printed is lost, because the stream is closed, its reader is
    gone or the disk is full; what its encoding lacks is printed as an escape.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        number = stream.fileno() if stream else os.open(os.devnull, os.O_WRONLY)
        heard_or_not = io.TextIOWrapper(
            io.BufferedWriter(_Unheard(number, "w", closefd=False)),
            encoding=getattr(stream, "encoding", None),
            errors="backslashreplace",
            # With PYTHONUNBUFFERED Python's own is no longer so.
            line_buffering=name == "stderr"
            or getattr(stream, "line_buffering", False)
            or getattr(stream, "write_through", False),
        )
        setattr(sys, name, heard_or_not)


def check_arguments(arguments):
    """Refuses bytes that are no text, which TensorFlow and HDF5 need."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"The argument {argument!a} is no text in the encoding "
                f"{sys.getfilesystemencoding()}: set PYTHONUTF8=1 and a UTF-8 "
                "locale, or give another name."
            ) from None
