"""One truth on all backends: the same weights and data, the same numbers."""

import json

import numpy as np
import pytest

from tests.helpers.backend_cases import REFERENCE, cases

REFERENCES = json.loads(REFERENCE.read_text())


@pytest.mark.parametrize("case", cases())
def test_numbers_are_those_of_the_other_backends(case):
    expected = np.array(REFERENCES[case])
    actual = np.array(cases()[case]())
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-6)
