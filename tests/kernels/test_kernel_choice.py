import importlib.util
import subprocess
import sys

import kernel_oracle
import pytest
import torch

from klbench import kernels
from klbench.kernels import token_divergences
from klbench.types import ConfigError

POLICY, REFERENCE, TOKENS = kernel_oracle.logits(3, 10, 0.5)


def test_names():
    assert kernels.names() == ["triton", "cpu", "reference"]


def test_the_choice_depends_on_device_and_dtype_and_is_told():
    assert kernels.choose(POLICY) == "cpu"
    assert kernels.choose(POLICY.bfloat16(), POLICY) == "cpu"
    assert (
        kernels.choose(POLICY.double()) == kernels.choose(POLICY, REFERENCE.double()) == "reference"
    )
    assert kernels.choose(POLICY, kernel="reference") == "reference"
    assert token_divergences(POLICY, REFERENCE, TOKENS).kernel == "cpu"
    assert token_divergences(POLICY.double(), REFERENCE, TOKENS).kernel == "reference"


@pytest.mark.parametrize(
    ("policy", "reference", "tokens", "options", "message"),
    [
        (POLICY, REFERENCE[:, :9], TOKENS, {}, r"one shape, got \(3, 10\) and \(3, 9\)"),
        (POLICY[:2], REFERENCE, TOKENS, {}, r"one shape, got \(2, 10\) and \(3, 10\)"),
        (POLICY[0], REFERENCE[0], TOKENS, {}, r"shape \(n, V\) with V of 1 or more, got \(10,\)"),
        (POLICY[:, :0], REFERENCE[:, :0], TOKENS, {}, r"V of 1 or more, got \(3, 0\)"),
        (POLICY, REFERENCE, TOKENS[:2], {}, r"one a row of the logits, got \(2,\) and \(3, 10\)"),
        (POLICY, REFERENCE, torch.tensor([0, 10, -1]), {}, "from 0 to 9, got -1 to 10"),
        (POLICY, REFERENCE, TOKENS.float(), {}, "int64 or int32, got float32"),
        (
            POLICY.int(),
            REFERENCE,
            TOKENS,
            {},
            "float64, float32, bfloat16 or float16, got int32 and float32",
        ),
        (POLICY.to("meta"), REFERENCE, TOKENS, {}, "one device, got meta, cpu and cpu"),
        (POLICY, REFERENCE, TOKENS, {"block_rows": 0}, "block_rows must be 1 or more, got 0"),
        (
            POLICY,
            REFERENCE,
            TOKENS,
            {"kernel": "tritn"},
            "unknown kernel 'tritn'; did you mean 'triton'",
        ),
        (
            POLICY.double(),
            REFERENCE,
            TOKENS,
            {"kernel": "cpu"},
            "'cpu' cannot be used: .* float64; available: auto, refer",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(policy, reference, tokens, options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        token_divergences(policy, reference, tokens, **options)
    assert "\n" not in str(raised.value)


def test_triton_without_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reason = (
        "not on a GPU, and TRITON_INTERPRET=1 is not set"
        if importlib.util.find_spec("triton")
        else "triton is not installed"
    )
    with pytest.raises(
        ConfigError, match=f"'triton' cannot be used: .*{reason}; available: auto, cpu, reference"
    ):
        token_divergences(POLICY, REFERENCE, TOKENS, kernel="triton")


def test_no_heavy_import_before_it_is_needed():
    code = (
        "import sys, klbench.kernels; print([name for name in ('numba', 'triton') if name in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
