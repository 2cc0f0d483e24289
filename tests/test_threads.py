"""One thread, and afterwards as many as before."""

import numpy as np  # noqa: F401  # loads the libraries whose threads are looked at
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from klbench.threads import one_thread


def pools() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("fails", [False, True])
def test_one_thread_and_then_as_many_as_before(fails) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threadpool_limits(2, user_api="blas"):
            assert set(pools()) == {2}
            try:
                with one_thread():
                    assert (torch.get_num_threads(), set(pools())) == (1, {1})
                    if fails:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
            assert (torch.get_num_threads(), set(pools())) == (3, {2})
            with one_thread(torch=False):
                assert set(pools()) == {1}
            assert set(pools()) == {2}
    finally:
        torch.set_num_threads(before)
