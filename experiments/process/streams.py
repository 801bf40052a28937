"""Standard streams on which nothing that a process does depends."""

import io
import os
import re
import sys

# What a progress bar begins with: to the start of its line, and erase it.
_REDRAWN = re.compile(r"(\r(\x1b\[K)?)?")


class _Unheard(io.FileIO):
    """A file for writing in which what cannot be written is lost."""

    def write(self, data):
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


class _Visible(io.TextIOWrapper):
    def write(self, text):
        drawn = _REDRAWN.match(text)[0]
        super().write(drawn + visible(text[len(drawn) :]))
        return len(text)


def visible(text):
    """Lines without what would act on their reader.

    Control characters but the end of a line and the tab, marks that turn the
    direction of writing and what UTF-8 cannot hold are shown as the escapes
    that Python has for them: names of files, and what files hold, may have any.
    """
    # As `keras_svag.arguments.printable`, which cannot be had without Keras.
    return "".join(
        c
        if c.isprintable() or c in "\n\t"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def protect_streams():
    """Has the process go on whoever listens to it, and act on no reader.

    Closed streams lead nowhere, instead of to the next file or socket that is
    opened. What cannot be printed is lost, because the reader is gone or the
    disk is full; characters that the encoding lacks are printed as escapes, and
    so are those that `visible` shows, but for a progress bar's return to the
    start of its line. Call it before anything else opens a file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # It gets the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _protected(sys.stdout, 1)
    sys.stderr = _protected(sys.stderr, 2)


def _protected(stream, descriptor):
    raw = _Unheard(descriptor, "w", closefd=False)
    return _Visible(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", False),
    )


def check_arguments(arguments):
    """Refuses arguments that the process could not decode.

    Python passes their bytes on to the system, but TensorFlow and HDF5 need
    text.

    Args:
        arguments: list of strings, those of the command line.

    Raises:
        ValueError: if one holds bytes that are no characters.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The argument {argument!a} is no text in the encoding "
                f"{sys.getfilesystemencoding()}: set PYTHONUTF8=1 and a UTF-8 "
                "locale, or give another name."
            ) from error
