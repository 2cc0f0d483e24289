"""What the cpu kernel holds beyond its inputs."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from klbench.kernels import token_divergences

CODE = """
import pathlib, torch
from klbench.kernels import token_divergences

def case(rows, size, dtype):
    policy, reference = (torch.full((rows, size), 0.5, dtype=dtype) for _ in range(2))
    return policy, reference, torch.zeros(rows, dtype=torch.int64)

def peak():
    status = open("/proc/self/status")
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024

torch.set_num_threads(2)
for dtype, rows in ((torch.float32, 1024), (torch.bfloat16, 256), (torch.float16, 256)):
    token_divergences(*case(600, 1000, dtype), kernel="cpu")  # loads what it needs
    logits = case(rows, 50257, dtype)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = peak()
    token_divergences(*logits, kernel="cpu")
    print(peak() - before)
    held = torch.ones(8 * 2**20)  # what is held shows: 32 MiB
    assert peak() - before > 30
    del logits, held
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here"
)
def test_less_than_16_mib():
    # glibc keeps a freed block of up to 32 MiB and gives it out again, so the peak would not show
    # its next use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment
    )
    if "PermissionError" in done.stderr:
        pytest.skip("the peak cannot be reset here")
    assert done.returncode == 0, done.stderr
    beyond = [float(line) for line in done.stdout.split()]
    assert len(beyond) == 3
    assert max(beyond) < 16.0


def test_the_reference_is_held_no_longer_than_the_results() -> None:
    policy, reference = (torch.zeros(2, 8, requires_grad=True), torch.zeros(2, 8))
    held = weakref.ref(reference.untyped_storage())
    gc.disable()  # it goes with its last name, and waits for no collection
    try:
        found = token_divergences(
            policy, reference, torch.zeros(2, dtype=torch.int64), kernel="cpu"
        )
        del reference
        assert held() is not None
        del found
        assert held() is None
    finally:
        gc.enable()
