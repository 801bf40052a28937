"""The files of a report, which replace those of an earlier one alone."""

import contextlib
import hashlib
import json
import os
import re
import tempfile

from experiments.process.own_files import foreign, remove_partial, replaced

# The file that says what a report has written: `{name: [checksum]}`.
_MANIFEST = ".report.json"
_FOLDERS = ("figures", "report")
_NAME = re.compile(rf"report\.md|({'|'.join(_FOLDERS)})/[^/]+")


def prepare(output):
    """Removes what a report that was killed left unfinished in a folder.

    Raises:
        OSError: If nothing can be written there, or where it is to be.
        ValueError: If a file that no report has written is in its place.
    """
    folder = os.path.abspath(output)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for folder in (os.path.join(output, name) for name in (*_FOLDERS, "")):
        with contextlib.suppress(OSError):
            if remove_partial(folder):
                os.rmdir(folder)
    _written_before(output)


def replace(output, files):
    """Writes all the files of a report, or none, in place of an earlier one.

    Args:
        output: Folder.
        files: `{name: bytes}`.

    Raises:
        OSError: If they cannot be written.
        ValueError: If a file that no report has written is in their place.
    """
    before = _written_before(output, files)
    # Which of two is there is not known where a report was killed.
    sums = {
        name: [*before.get(name, [])[-1:], _checksum(content)]
        for name, content in files.items()
    }
    manifest = json.dumps({"written": sums}, indent=2).encode()
    for folder in _FOLDERS:
        os.makedirs(os.path.join(output, folder), exist_ok=True)
    with contextlib.ExitStack() as places:
        # What is entered last gets its place first.
        for name, content in {**files, _MANIFEST: manifest}.items():
            place = replaced(os.path.join(output, name))
            with open(places.enter_context(place), "xb") as file:
                file.write(content)
        for name in before.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(output, name))


def _written_before(output, names=()):
    """Checksums of what an earlier report wrote, `{name: [checksum]}`."""
    written = _read_manifest(os.path.join(output, _MANIFEST))
    for name in sorted({"report.md", *_FOLDERS, *written, *names}):
        path = os.path.join(output, name)
        if written and name in _FOLDERS and os.path.isdir(path):
            continue
        if os.path.lexists(path):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if _checksum(file.read()) in written.get(name, ()):
                    continue
            raise _foreign(path)
    return written


def _read_manifest(path):
    if not os.path.lexists(path):
        return {}
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        with open(path, encoding="utf-8") as file:
            written = json.load(file)["written"]
        if all(map(_NAME.fullmatch, written)):
            return {name: [*sums] for name, sums in written.items()}
    raise _foreign(path)


def _foreign(path):
    return foreign(path, "as a report has written it", "--output")


def _checksum(content):
    return hashlib.sha256(content).hexdigest()
