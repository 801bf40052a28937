"""Draws docs/images/architecture.svg: the packages and what they import.

    python docs/architecture.py

The arrows are read from the sources, so that the picture stays true.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

# In this order a package imports only from those before it.
LIBRARY = {
    "keras_svag.noise": "moments of a pair, NoiseSeries, NoiseEstimate",
    "keras_svag.optimizers": "SVAG's update and weights",
    "keras_svag.scaling": "the theory: bounds, rules, closeness, verdict",
    "keras_svag.backend": "what differs by backend, Keras's private names",
    "keras_svag.models": "SVAGModel",
    "keras_svag.probe": "a model measured, not trained",
    "keras_svag.branching": "another batch size tried by short trainings",
    "keras_svag.reporting": "the report as text, HTML and Markdown",
    "keras_svag.callbacks": "the monitor, the check, batches that grow",
    "keras_svag.applications": "the paper's networks",
}
EXPERIMENTS = {
    "experiments.datasets": "images as tf.data pipelines",
    "experiments.process": "how a process starts and ends, its last bits",
    "experiments": "a configuration becomes a run that can be resumed",
    "experiments.report": "the studies of finished runs",
    "experiments.sweep": "a grid of runs",
    "train": "the flags",
}
PACKAGES = {**LIBRARY, **EXPERIMENTS}

WIDTH, MARGIN, LEFT, RIGHT, PITCH, HEIGHT = 680, 14, 140, 580, 58, 42
# For the importers, so that arrows can be told apart where they cross.
COLOURS = "#0072b2 #d55e00 #009e73 #aa3377 #7a6200 #4b4b8f".split()


def sources():
    """The files of the library, the experiments and their script."""
    folders = ("keras_svag", "experiments")
    files = [p for f in folders for p in sorted((ROOT / f).rglob("*.py"))]
    return [*files, ROOT / "train.py"]


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported_modules(tree):
    """The modules that some code imports, at any depth of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if is_module(full) else node.module


def module_of(path):
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    return name.removesuffix("/__init__").replace("/", ".")


def package_of(module):
    """The package of the picture that a module is in, or None."""
    while module and module not in PACKAGES:
        module = module.rpartition(".")[0]
    return module or None


def arrows():
    """Pairs of an importing package and one that it imports."""
    found = set()
    for path in sources():
        importer = package_of(module_of(path))
        for module in imported_modules(ast.parse(path.read_text())):
            found.add((importer, package_of(module)))
    names = list(PACKAGES)
    pairs = (p for p in found if None not in p and p[0] != p[1])
    return sorted(pairs, key=lambda pair: [names.index(name) for name in pair])


def arrow(start, end, left, colour):
    """From a place on an importer's side to one on the imported one's."""
    side, away = (LEFT, -1) if left else (RIGHT, 1)
    bend = side + away * (20 + 0.27 * abs(start - end))
    tip = side + away * 7
    return (
        f'<path d="M{side} {start:g}C{bend:g} {start:g} {bend:g} {end:g} '
        f'{tip} {end:g}" stroke="{colour}" fill="none" stroke-width="1.6"/>'
        f'<path d="M{side} {end:g}l{away * 9} -4v8z" fill="{colour}"/>'
    )


def picture():
    """The text of the SVG file."""
    names, pairs = list(PACKAGES), arrows()
    # The ends on one side of a box, from the top: arrows to the nearest box
    # above it, to the farthest, from the farthest below it, from the nearest.
    # In this order arrows of one box do not cross.
    ends = {}
    for pair in pairs:
        for own, other in (pair, pair[::-1]):
            distance = names.index(own) - names.index(other)
            side = ends.setdefault((own, pair[0] in EXPERIMENTS), [])
            side.append((distance < 0, distance, pair))

    def place(own, pair):
        side = [end[-1] for end in sorted(ends[own, pair[0] in EXPERIMENTS])]
        share = (side.index(pair) + 1) / (len(side) + 1)
        return MARGIN + names.index(own) * PITCH + share * HEIGHT

    tall = 2 * MARGIN + len(names) * PITCH - (PITCH - HEIGHT)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}"'
        f' width="{WIDTH}" height="{tall}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{tall}" fill="#ffffff"/>',
    ]
    importers = list(dict.fromkeys(importer for importer, _ in pairs))
    for importer, imported in pairs:
        colour = COLOURS[importers.index(importer) % len(COLOURS)]
        start = place(importer, (importer, imported))
        end = place(imported, (importer, imported))
        lines.append(f"<!-- {importer} imports {imported} -->")
        lines.append(arrow(start, end, importer in EXPERIMENTS, colour))
    for row, (name, purpose) in enumerate(PACKAGES.items()):
        top = MARGIN + row * PITCH
        fill = "#eef4fb" if name in LIBRARY else "#fdf3e7"
        shown = "train.py" if name == "train" else f"{name.replace('.', '/')}/"
        lines += [
            f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}"'
            f' height="{HEIGHT}" rx="5" fill="{fill}" stroke="#8a94a0"/>',
            f'<text x="{LEFT + 14}" y="{top + 18}" font-size="14"'
            f' font-weight="bold" fill="#1f2933">{shown}</text>',
            f'<text x="{LEFT + 14}" y="{top + 34}" font-size="12"'
            f' fill="#52606d">{purpose}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(picture())
