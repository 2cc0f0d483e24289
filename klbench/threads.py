"""One thread where numbers must have the same bits whatever the machine.

The order of a sum depends on who shares it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread(*, torch: bool = True) -> Iterator[None]:
    """Let NumPy's libraries and torch compute in one thread.

    A second one costs small arrays more than it brings.

    Parameters
    ----------
    torch
        Whether torch is used; False does not import it.
    """
    if not torch:
        with _pools().limit(limits=1):
            yield
        return
    import torch as library

    threads = library.get_num_threads()
    library.set_num_threads(1)
    try:
        with _pools().limit(limits=1):
            yield
    finally:
        library.set_num_threads(threads)
