"""What the properties are tested over: observations, estimates, equilibria."""

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_svag import NoiseEstimate, scaling
from keras_svag.noise.estimate import SAMPLING

closenesses = st.floats(1 + 1e-6, 1e6)
kappas = st.floats(1, 1e9)
levels = st.floats(0.01, 0.999)
magnitudes = st.floats(-1e30, 1e30)
anything = st.floats()
ordinary = st.floats(-1e6, 1e6, width=32)


@st.composite
def observations(draw, least=2, values=ordinary):
    """Observations of (G, S): an array of shape (2, count)."""
    count = draw(st.integers(least, 30))
    return draw(arrays.arrays(np.float64, (2, count), elements=values))


@st.composite
def estimates(draw, values=magnitudes):
    """A `NoiseEstimate` of any numbers that some observations could give."""
    count = draw(st.integers(0, 10**9))
    # The squares of errors that are not 0 are none either.
    errors = st.just(0.0) | st.floats(1e-100, 1e30)
    if count < 2:
        errors = st.just(math.nan)
    g_se, s_se = draw(errors), draw(errors)
    correlation = draw(st.floats(-1, 1))
    return NoiseEstimate(
        draw(values) if count else math.nan,
        abs(draw(values)) if count else math.nan,
        g_se,
        s_se,
        g_se * s_se * correlation,
        count,
        batch_size=draw(st.integers(1, 10**6)),
        num_skipped=draw(st.integers(0, 10**6)),
        sampling=draw(st.none() | st.sampled_from(SAMPLING)),
        num_examples=draw(st.none() | st.integers(10**6, 10**9)),
    )


@st.composite
def equilibria(draw):
    """`EquilibriumStatistics`, with exact errors or without."""
    numbers, errors = st.floats(1e-12, 1e12), st.floats(0, 1e12)
    # G may be 0, below it, or so small that a ratio of two overflows.
    gradients = numbers | st.floats(-1e12, 0) | st.floats(0, 1e-300)
    values = draw(st.tuples(numbers, gradients, numbers, *[errors] * 3))
    count = draw(st.none() | st.integers(1, 100))
    return scaling.EquilibriumStatistics(*values, count)
