"""Checks and times the Triton kernel on a GPU.

``python benchmarks/kernels_on_gpu.py --out FOLDER``; ``make gpu`` runs it with all else.

Beside it stand the same values by torch, and what TRL and Liger have for a part of them, where they
are installed. Prints one table, and writes it to ``kernels.parquet`` and ``kernels.csv``. Exits
with 1 where a value or a gradient is off by more than its tolerance, or where a forward pass moves
its logits at less than ``--least-share`` of the bandwidth of a copy. Without a GPU, ``--device cpu
--small`` does the same in Triton's interpreter, where times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # from a checkout that is not installed

Row = dict[str, Any]
RESULTS = ("log_q", "log_p", "kl_qp", "kl_pq", "entropy")
# Of float32 results, within t (1 + |exact|); of a gradient, of what its own dtype resolves beside
# the largest element.
TOLERANCE = 2e-6
MORE: Row = {"total_variation": True, "jsd": 0.5, "top": (1, 8, 64)}
"""What takes a second look at the logits."""
ABOUT = ("machine", "python", "torch", "triton", "command")
"""Columns that are the same in every row, and not shown."""
RESOLUTION = {"float32": 2e-6, "bfloat16": 2**-8, "float16": 2**-10}


def logits(rows: int, size: int, noise: float, dtype: Any, device: str) -> tuple[Any, Any, Any]:
    import torch

    stream = torch.Generator(device).manual_seed(0)
    policy, reference = (torch.empty(rows, size, dtype=dtype, device=device) for _ in range(2))
    for part_q, part_p in zip(
        policy.split(256), reference.split(256), strict=True
    ):  # a float32 copy of all would not fit
        z = torch.randn(part_q.shape, generator=stream, device=device) * 3.0
        part_p.copy_(z + noise * torch.randn(z.shape, generator=stream, device=device))
        part_q.copy_(z)
    return policy, reference, torch.randint(size, (rows,), generator=stream, device=device)


def check(rows: int, size: int, noise: float, dtype: Any, device: str) -> Row:
    """Largest errors against the float64 kernel.

    Of the results, and of the gradient of a sum of them with weights.
    """
    import torch

    from klbench.kernels import token_divergences

    policy, reference, tokens = logits(rows, size, noise, dtype, device)
    if rows > 2 and size > 2:  # masks: shared, of the policy alone, of the reference alone
        policy[0, :2] = reference[0, :2] = float("-inf")
        policy[1, 1] = float("-inf")
        reference[2, 1] = float("-inf")
        tokens[:3] = 2
    weights = torch.linspace(-1.0, 1.0, rows * 4, device=device, dtype=torch.float64).view(rows, 4)
    weights[1:3, 1:3] = 0.0  # an infinite divergence has no gradient
    gradients, error = [], 0.0
    found = {}
    for kernel, leaf in (("triton", policy.clone()), ("reference", policy.double())):
        leaf.requires_grad_()
        found[kernel] = token_divergences(leaf, reference, tokens, kernel=kernel, **MORE)
        parts = [
            getattr(found[kernel], name).double() for name in ("log_q", "kl_qp", "kl_pq", "entropy")
        ]
        total = sum(
            torch.where(w == 0, 0.0, part).mul(w).sum()
            for part, w in zip(parts, weights.T, strict=True)
        )
        gradients.append(torch.autograd.grad(total, leaf)[0].double())
    for got, exact in zip(
        *(results(found[kernel]) for kernel in ("triton", "reference")), strict=True
    ):
        wrong = (got - exact).abs() / (1 + exact.abs())
        error = max(
            error, float(torch.where(got == exact, 0.0, wrong).nan_to_num(nan=float("inf")).max())
        )
    got, exact = (
        g[[0, *range(3, rows)]] for g in gradients
    )  # autograd makes NaN of 0 times infinity
    slope = float(
        ((got - exact).abs() / exact.abs().amax().clamp_min(1e-30))
        .nan_to_num(nan=float("inf"))
        .max()
    )
    name = str(dtype).removeprefix("torch.")
    ok = error <= TOLERANCE and slope <= RESOLUTION[name]
    return {
        "what": "accuracy",
        "rows": rows,
        "vocabulary": size,
        "dtype": name,
        "noise": noise,
        "error": error,
        "gradient_error": slope,
        "status": "ok" if ok else "off",
    }


def results(found: Any) -> list[Any]:
    """Return all values in float64, without gradients."""
    values = [getattr(found, name) for name in (*RESULTS, "total_variation", "jsd")]
    values += [getattr(found.top, name) for name in ("policy", "reference", "kl_qp")]
    return [value.detach().double() for value in values]


def seconds(job: Callable[[], object], device: str, rounds: int) -> float:
    """Median time of a run, after two that are not counted (the first one tunes)."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(2):
        job()
    times = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        job()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timings(rows: int, size: int, noise: float, dtype: Any, device: str, rounds: int) -> list[Row]:
    """A copy, and forward and backward passes, each with the bytes that it cannot do without."""
    import torch

    from klbench.kernels import token_divergences

    policy, reference, tokens = logits(rows, size, noise, dtype, device)
    one = policy.numel() * policy.element_size()
    bandwidth = 0.0
    found: list[Row] = []

    def note(what: str, job: Callable[[], object], bytes_moved: int) -> None:
        nonlocal bandwidth
        took = seconds(job, device, rounds)
        rate = bytes_moved / took / 1e9
        bandwidth = bandwidth or rate  # the first one is the copy
        found.append(
            {
                "what": what,
                "rows": rows,
                "vocabulary": size,
                "dtype": str(dtype).removeprefix("torch."),
                "noise": noise,
                "milliseconds": took * 1e3,
                "gigabytes_per_second": rate,
                "share_of_copy": rate / bandwidth,
                "status": "ok",
            }
        )

    note("copy", functools.partial(torch.empty_like(policy).copy_, policy), 2 * one)
    note("forward", lambda: token_divergences(policy, reference, tokens, kernel="triton"), 2 * one)
    for name, value in MORE.items():
        with_it = functools.partial(
            token_divergences, policy, reference, tokens, kernel="triton", **{name: value}
        )
        note(f"forward, {name}", with_it, 2 * one)
    leaf = policy.detach().requires_grad_()
    result = token_divergences(leaf, reference, tokens, kernel="triton")
    total = (result.log_q + result.kl_qp + result.kl_pq + result.entropy).sum()
    note("backward", lambda: torch.autograd.grad(total, leaf, retain_graph=True), 3 * one)
    with torch.no_grad():
        for name, job in others(policy.detach(), reference, tokens).items():
            note(name, job, 2 * one)
    return found


def others(policy: Any, reference: Any, tokens: Any) -> dict[str, Callable[[], object]]:
    """Return what computes a part of the same values elsewhere: whose, and how.

    ``torch``: both log-probabilities and KL(q‖p). TRL: both log-probabilities. Liger: KL(q‖p).
    """
    import torch

    def divergence() -> object:
        found = []
        for q, p, token in zip(*(x.split(256) for x in (policy, reference, tokens)), strict=True):
            log_q, log_p = (x.float().log_softmax(-1) for x in (q, p))
            own = [x.gather(-1, token[:, None])[:, 0] for x in (log_q, log_p)]
            found.append(torch.stack([*own, (log_q.exp() * (log_q - log_p)).sum(-1)]))
        return torch.cat(found, dim=-1)

    found: dict[str, Callable[[], object]] = {"torch": divergence}
    with contextlib.suppress(ImportError):
        from trl.trainer.utils import selective_log_softmax

        found["trl selective_log_softmax"] = lambda: [
            selective_log_softmax(x[None], tokens[None]) for x in (policy, reference)
        ]
    with contextlib.suppress(ImportError):
        from liger_kernel.transformers import LigerKLDIVLoss

        kl = LigerKLDIVLoss(reduction="none", log_target=True)
        # Of its target against its input: the policy is the target.
        found["liger KLDIVLoss"] = lambda: [
            kl(p.float().log_softmax(-1), q.float().log_softmax(-1)).sum(-1)
            for q, p in zip(policy.split(256), reference.split(256), strict=True)
        ]
    return found


def describe(device: str) -> Row:
    import platform

    import torch
    import triton

    name = platform.processor() or platform.machine()
    return {
        "machine": name if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "command": " ".join(["python", *sys.argv]),
    }


def show(rows: list[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in ABOUT))

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    table = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(columns))]
    for line in table:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def write(rows: list[Row], folder: Path, name: str = "kernels") -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
    pyarrow.csv.write_csv(table, folder / f"{name}.csv")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the tables; none are written without it"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="few and small shapes: a test of this script"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--least-share", type=float, help="fail below this share of the bandwidth of a copy"
    )
    asked = parser.parse_args()
    if asked.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --small tries this script without one")
    full, half, brain = torch.float32, torch.float16, torch.bfloat16
    if asked.small:
        cases = [(5, 37, 0.1, full), (4, 4_500, 1.0, brain)]
        sizes = [(2, 300, brain)]
    else:
        cases = [
            (rows, size, noise, dtype)
            for rows, size in ((1, 1), (5, 3), (33, 127), (64, 50_257), (16, 151_936))
            for noise in (1e-4, 0.1, 3.0)
            for dtype in (
                (full, brain, half) if size < 1_000 else (full, brain)
            )  # each is compiled and tuned
        ]
        sizes = [(1_024, 50_257, full), (1_024, 50_257, brain), (8_192, 151_936, brain)]
    rows = [check(*case, asked.device) for case in cases]
    rounds = 1 if asked.small else asked.rounds
    for size in sizes:
        for noise in (0.1, 3.0):
            rows += timings(*size[:2], noise, size[2], asked.device, rounds)
    about = describe(asked.device)
    rows = [row | about for row in rows]
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    show(rows)
    if asked.out:
        write(rows, asked.out)
    slow = (
        asked.least_share is not None
        and min(r["share_of_copy"] for r in rows if r["what"] == "forward") < asked.least_share
    )
    return int(slow or any(row["status"] != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
