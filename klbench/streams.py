"""Named, counter-based random streams.

Every draw comes from ``(seed, names...)`` and from nothing else.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A Philox generator of its own for each ``(seed, names...)``.

    The key is the SHA-256 of the names, so that streams do not depend on how many others there are,
    on their order, or on the process that draws from them. (Salmon et al. 2011, "Parallel random
    numbers: as easy as 1, 2, 3".)
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
