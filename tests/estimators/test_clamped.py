import numpy as np
import pytest
import torch

from klbench import estimators
from klbench.types import ConfigError

X = np.array([-30.0, -15.0, -5.0, -0.5, 0.0, 0.5, 2.0, 2.7, 15.0, 300.0])


def k3(x):
    return np.exp(x) - 1.0 - x


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k3_clamped", np.minimum(k3(X), 10.0)),
        ("k3_clamped:2", np.minimum(k3(X), 2.0)),
        ("k3_clamped:1e6", np.minimum(k3(X), 1e6)),
        ("k3_verl", np.minimum(k3(np.clip(X, -20.0, 20.0)), 10.0)),
        ("k1_openrlhf", np.clip(-X, -10.0, 10.0)),
        ("k2_openrlhf", np.minimum(X * X / 2, 10.0)),
        ("k3_openrlhf", np.minimum(k3(X), 10.0)),
    ],
)
def test_the_clamp_is_where_the_name_says(name, expected) -> None:
    np.testing.assert_allclose(estimators.get(name).terms(X), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["k3_clamped", "k3_verl", "k3_openrlhf"])
def test_beyond_a_clamp_there_is_no_gradient(name) -> None:
    """A clamp at 10 has none where p/q > 13.6: there the penalty vanishes."""
    x = torch.log(torch.tensor([13.4, 13.8, 1e8], dtype=torch.float64)).requires_grad_()
    estimators.get(name).terms(x).sum().backward()
    assert x.grad[0].item() == pytest.approx(12.4)
    assert x.grad[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("limit", ["0", "-1", "inf", "nan"])
def test_a_limit_must_be_positive_and_finite(limit) -> None:
    with pytest.raises(ConfigError, match=r"the limit must be positive and finite, got"):
        estimators.get(f"k3_clamped:{limit}")
