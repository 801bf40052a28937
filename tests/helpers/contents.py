"""What a folder holds."""

import os


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
