import pytest
import torch

from klbench.rlhf.testbed import Testbed


@pytest.fixture(scope="session")
def bed() -> Testbed:
    return Testbed("gru", vocabulary=3, horizon=3, prompts=2, width=4, seed=0, seeds=(0, 1))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
