"""Keeps what transformers, tokenizers and peft would print off the user's terminal."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as theirs


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off progress bars, advice and the tokenizer's threads while the block lasts."""
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    threads = os.environ.get("TOKENIZERS_PARALLELISM")
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    # Once it has used threads, the tokenizer warns on standard error at every later fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            theirs.enable_progress_bar()
        if threads is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = threads
