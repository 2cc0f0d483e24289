"""Language models: the text and the small models that come with klbench, loading, generation,
scoring.

Everything heavy is imported inside functions: importing this package loads neither torch nor
transformers.
"""

from __future__ import annotations

import os


def large_pages() -> None:
    """Let torch ask Linux for pages of 2 MiB, where it has not allocated anything yet.

    The logits of a large vocabulary are hundreds of them, and a fault for every 4 KiB took up to a
    sixth of the time. For a process of one's own, and those that it starts; an environment that
    says otherwise is left.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
