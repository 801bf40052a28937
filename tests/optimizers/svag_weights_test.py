"""The weights that mix a pair of gradients."""

import numpy as np
import pytest

from keras_svag.optimizers.svag import PAIRINGS, svag_weights

# Covariance of a sub-batch's gradient, in units of a batch's at size B.
SUB_BATCH_COVARIANCE = {"independent": 1, "halves": 2}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("ell", [1, 2, 3, 8, 1000, np.int64(4)])
def test_mean_is_kept_and_covariance_is_amplified_by_ell(ell, pairing):
    w1, w2 = svag_weights(ell, pairing)
    assert isinstance(w1, float) and isinstance(w2, float)
    assert w1 >= w2
    assert w1 + w2 == pytest.approx(1, rel=1e-14)
    amplification = (w1**2 + w2**2) * SUB_BATCH_COVARIANCE[pairing]
    assert amplification == pytest.approx(ell, rel=1e-14)


@pytest.mark.parametrize("ell", [1, 2, 7, 32])
def test_third_cumulant_is_of_order_ell(ell):
    # In units of a batch's at size B; that of half a batch is 4 times larger.
    w1, w2 = svag_weights(ell, "independent")
    assert w1**3 + w2**3 == pytest.approx(1.5 * ell - 0.5, rel=1e-12)
    w1, w2 = svag_weights(ell, "halves")
    assert 4 * (w1**3 + w2**3) == pytest.approx(3 * ell - 2, rel=1e-12)


def test_ell_1_is_sgd():
    assert svag_weights(1, "independent") == (1, 0)
    assert svag_weights(1, "halves") == (0.5, 0.5)


def test_pairing_is_independent_if_not_given():
    assert svag_weights(3) == svag_weights(3, "independent")
