import pytest

from klbench.rlhf.testbed import Testbed
from klbench.threads import one_thread


@pytest.fixture(scope="session")
def bed() -> Testbed:
    return Testbed("gru", vocabulary=3, horizon=3, prompts=2, width=4, seed=0, seeds=(0, 1))


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield
