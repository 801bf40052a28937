"""What a folder holds."""

import os
import zipfile


def contents_of(folder):
    """`{path: content}`: bytes of a file, goal of a link, None of a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isdir(path):
                found[path] = None
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = file.read()
    return found


def contents(folder):
    """What of a run must not depend on kills, as `{name: bytes}`."""
    with zipfile.ZipFile(os.path.join(folder, "model.keras")) as archive:
        found = {"model.keras": archive.read("model.weights.h5")}
    for name in ("history.csv", "results.json"):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = file.read()
    return found
