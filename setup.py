"""Package metadata; the version's one place is keras_svag/version.py."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
# The one place that names the repository.
REPOSITORY = "https://github.com/OWNER/keras_svag"

# One of the backends of Keras, and what the events for TensorBoard need.
TENSORFLOW = [
    # Training runs on it. The optimizer and the model override hooks of Keras
    # that are not promised to stay, so its lower bound and Keras's are the
    # oldest releases on which the tests have run: docs/versions.md.
    "tensorflow>=2.18",
    # The charts of the callbacks; TensorFlow leaves it out.
    "tensorboard",
]

# What train.py and experiments/ need beside the library.
EXPERIMENTS = [
    *TENSORFLOW,
    # Reads CIFAR, SVHN and MNIST.
    "tensorflow-datasets>=4.9.10",
    # tensorflow-datasets imports it without requiring it.
    "importlib_resources",
    # Flags of the training script.
    "absl-py",
    # Training configurations.
    "ml-collections",
    # The progress bar.
    "tqdm",
    # Ships the optical digits, the data set that needs no network.
    "scikit-learn",
    # Figures of reports on finished runs.
    "matplotlib",
    # Reads their histories.
    "pandas",
]

# What `make docs` needs.
DOCS = [
    # The site, and the reference from the docstrings.
    "sphinx",
    # Its look; all of its assets are local.
    "furo",
    # The pages are in Markdown, the tutorials are notebooks.
    "myst-nb",
    # A button that copies an example.
    "sphinx-copybutton",
]

setup(
    name="keras-svag",
    # The file is run by itself: importing the package would need TensorFlow.
    version=runpy.run_path(str(ROOT / "keras_svag" / "version.py"))[
        "__version__"
    ],
    description=(
        "SVAG for Keras: simulate SGD's SDE, measure gradient noise, and"
        " test the linear scaling rule"
    ),
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="keras_svag authors",
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{n}" for n in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    keywords=[
        "keras",
        "tensorflow",
        "jax",
        "pytorch",
        "deep learning",
        "stochastic gradient descent",
        "stochastic differential equation",
        "gradient noise scale",
        "batch size",
        "linear scaling rule",
        "learning rate",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["keras_svag", "keras_svag.*"]),
    # It tells type checkers that the hints are to be read.
    package_data={"keras_svag": ["py.typed"]},
    install_requires=[
        "keras>=3.8",
        # The theory and the error bars, which need no backend.
        "numpy",
        # Quantiles of the error bars.
        "scipy",
    ],
    extras_require={
        "tensorflow": TENSORFLOW,
        "jax": ["jax", "tensorboard"],
        "torch": ["torch", "tensorboard"],
        "experiments": EXPERIMENTS,
        "test": [
            *EXPERIMENTS,
            # The site is built to look for what is missing or dead.
            *DOCS,
            "pytest",
            # Two test files at a time.
            "pytest-xdist",
            # Properties tested over generated arguments.
            "hypothesis",
            # Execute docs/tutorials; 44 MB with what they require.
            "ipykernel",
            "nbclient",
            "nbformat",
            # Renders reports, to see that hostile names stay text.
            "markdown-it-py",
            # Reads CITATION.cff.
            "pyyaml",
            # Gives headings the anchors that links lead to.
            "mdit-py-plugins",
            # `make lint`.
            "mypy",
            "ruff",
            # The packaging test builds a wheel without a network.
            "setuptools>=77.0.3",
            "wheel",
        ],
        # The tests of KerasHub's models; too heavy for `make test`, which skips
        # them: tensorflow-text alone takes 194 MB.
        "hub": ["keras-hub>=0.32"],
        # The pictures in docs/images are those of reports on runs.
        "docs": [*EXPERIMENTS, *DOCS],
    },
    # The usual build/ is the BUILD file where file names ignore case.
    options={"build": {"build_base": ".build"}},
)
