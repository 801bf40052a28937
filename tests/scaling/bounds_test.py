import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.scaling.bounds import min_batch_multiplier

C = 2**0.5


def test_max_batch_multiplier_grows_to_its_limit():
    q = np.array([0.0, 0.1, 1, 10, 100, 1e4, 1e8, np.inf])
    bounds = scaling.max_batch_multiplier(q, C, 0.8, 5e-4)
    assert bounds.shape == q.shape
    assert np.all(np.diff(bounds) > 0)
    u, square = 0.8 * 5e-4, C**2
    assert bounds[-1] == pytest.approx((2 * square - 2 + u) / (square * u))
    assert bounds[-1] * u < 2
    assert scaling.max_batch_multiplier(math.inf, C) == math.inf
    assert math.isnan(scaling.max_batch_multiplier(math.nan, C))
    loose = scaling.max_batch_multiplier(q, C, 0.8, 5e-4, form="loose")
    assert np.all(bounds <= loose)


def test_where_the_sde_may_be_close_any_smaller_batch_may_be():
    for rates in ((None, None), (0.3, 0.5)):
        needed = scaling.min_noise_to_signal(C, *rates)
        q = np.array([0.0, 0.999 * needed, 1.001 * needed, math.inf])
        bounds = min_batch_multiplier(q, C, *rates)
        assert np.all(bounds[:2] > 0)
        np.testing.assert_array_equal(bounds[2:], 0)
    assert math.isnan(min_batch_multiplier(math.nan, C))
    # From SVAG's run SGD at B itself may have too little noise.
    assert min_batch_multiplier(0.0, C, ell=1) == pytest.approx(0.5)
    assert min_batch_multiplier(0.0, C, ell=4) == pytest.approx(0.125)


def test_min_noise_to_signal():
    assert scaling.min_noise_to_signal(C) == pytest.approx(1)
    assert scaling.min_noise_to_signal(2) == pytest.approx(1 / 3)
    sharper = scaling.min_noise_to_signal(C, 0.5, 0.4)
    # SGD and its SDE with equal G, N' = N C and R' = R / C balance there.
    q, u = sharper, 0.2
    assert (1 + q) / (2 - u) == pytest.approx(C**2 * q / 2)
    assert scaling.min_noise_to_signal(1.1, 1.0, 1.0) == math.inf


def test_min_closeness_in_closed_form():
    kappa = 4.0
    assert scaling.min_closeness(3.0, kappa) == pytest.approx((7 / 4) ** 0.5)
    assert scaling.min_closeness(math.inf, kappa) == 1
    least = scaling.min_closeness(np.array([0.0, math.inf]), kappa)
    np.testing.assert_allclose(least, [2, 1])
    # ρ = (2 - 4 * 0.1) / (2 - 0.1).
    with_decay = scaling.min_closeness(math.inf, kappa, 0.5, 0.2)
    assert with_decay == pytest.approx((1.9 / 1.6) ** 0.5)
    assert scaling.min_closeness(3.0, 20.0, 0.5, 0.2) == math.inf
    assert math.isnan(scaling.min_closeness(math.nan, kappa))


def test_balance_of_every_process():
    r, g, n, rate, decay, ell = 3.0, 2.0, 5.0, 0.5, 0.1, 4
    arguments = r, g, n, rate, decay
    u = rate * decay
    for process in ("sgd", "NGD"):
        assert scaling.equilibrium_balance(
            process, *arguments
        ) == pytest.approx((2 - u) * decay * r / (rate * (g + n)))
    assert scaling.equilibrium_balance(
        "svag", *arguments, ell
    ) == pytest.approx((2 - u / ell) * decay * r / (rate * (n + g / ell)))
    assert scaling.equilibrium_balance("sde", *arguments) == pytest.approx(
        2 * decay * r / (rate * n)
    )
    assert scaling.equilibrium_balance("svag", *arguments, 1) == pytest.approx(
        scaling.equilibrium_balance("sgd", *arguments)
    )
    limit = scaling.equilibrium_balance("svag", *arguments, 10**9)
    assert limit == pytest.approx(
        scaling.equilibrium_balance("sde", *arguments)
    )


def test_linear_scaling_rule():
    assert scaling.linear_scaling_rule(
        0.8, 4, weight_decay=5e-4, batch_size=128, steps=1000
    ) == {
        "learning_rate": 3.2,
        "weight_decay": 5e-4,
        "batch_size": 512,
        "steps": 250,
    }


def test_square_root_scaling_rule():
    scaled = scaling.square_root_scaling_rule(
        1e-3,
        4,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=0.01,
        batch_size=128,
        steps=1000,
    )
    assert scaled == pytest.approx(
        {
            "learning_rate": 2e-3,
            "beta_1": 0.6,
            "beta_2": 0.996,
            "epsilon": 5e-8,
            "weight_decay": 0.02,
            "batch_size": 512,
            "steps": 250,
        }
    )
    coupled = scaling.square_root_scaling_rule(
        1e-3, 4, rho=0.9, weight_decay=0.01, decoupled=False
    )
    assert coupled == pytest.approx(
        {"learning_rate": 2e-3, "rho": 0.6, "weight_decay": 0.01}
    )
