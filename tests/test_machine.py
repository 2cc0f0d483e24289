"""What a run says of the machine that it had."""

import subprocess
import sys

import numpy as np


def test_peak_memory_is_that_of_the_process_alone() -> None:
    """One that a large process has started has not held what that one holds."""
    large = np.ones(2**26)
    code = "from klbench.machine import peak_memory; print(peak_memory())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5.0 < float(found.stdout) < large.nbytes / 2**21
