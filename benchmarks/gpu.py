"""All that is to be seen on a GPU, in one command: ``make gpu``, or ``python benchmarks/gpu.py``.

- ``kernels``: values and gradients against float64, and times against a copy of the same bytes,
  torch, TRL's and Liger's functions, in bfloat16 at 8,192 x 151,936 (``kernels_on_gpu.py``);
- ``lm``: the measured part of ``+exp=lm`` against the plain loop of transformers
  (``plain_lm.py``);
- ``training``: an update of ``ppo_lm`` and of ``dpo_lm`` against TRL's (``plain_trl.py``).

Each part has a process and a limit of its own, six minutes together. One that fails or is too slow
is said in ``gpu.json`` and does not take the others with it. The tables, a file each as Parquet and
CSV, and ``gpu.json`` are written to ``reports/published/gpu``. ``--device cpu --small`` tries all
of it without a GPU, where times mean nothing. Exits with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels_on_gpu import describe, show, write

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "reports" / "published" / "gpu"
SECONDS = {"kernels": 150, "lm": 90, "training": 90}
"""The limit of each part."""
ABOVE_LIMIT = 1
"""The exit code of a part that has its numbers, one of which is above its limit."""
Row = dict[str, Any]


def commands(asked: argparse.Namespace, place: Path) -> dict[str, list[str]]:
    """Return the words of each part's command."""
    device = ["--device", asked.device]
    kernels = ["kernels_on_gpu.py", *device, "--out", str(place)]
    # Whole processes are not compared: most of them is not the GPU's.
    lm = ["plain_lm.py", *device, "--parts", "measured", "--models", *asked.models]
    training = ["plain_trl.py", *device, "--rounds", "1", "--models", *asked.models]
    if asked.small:
        kernels += ["--small"]
        lm += ["--samples", "4", "--tokens", "3", "--rounds", "1"]
        training += ["--prompts", "2", "--group", "2", "--tokens", "4", "--updates", "2"]
    return {"kernels": kernels, "lm": lm, "training": training}


def performed(words: Sequence[str], limit: float) -> Row:
    """Return a part's status, its seconds, and what it printed."""
    started = time.perf_counter()
    script, *rest = words
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *rest],
            capture_output=True,
            text=True,
            timeout=limit,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        lines = said.decode() if isinstance(said, bytes) else said
        return {"status": f"took more than {limit:g} s", "seconds": limit, "said": lines}
    status = {0: "done", ABOVE_LIMIT: "above its limit"}.get(done.returncode, "failed")
    if status == "above its limit" and not done.stdout.strip():
        status = "failed"  # a traceback ends with 1 as well
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {
        "status": status if status != "failed" else f"failed: {last}",
        "seconds": time.perf_counter() - started,
        "said": done.stdout,
    }


def rows_in(said: str) -> list[Row]:
    """Return the rows among the lines that a script printed."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--models", nargs="+", default=["embedded", "real"])
    parser.add_argument("--parts", nargs="+", default=list(SECONDS), choices=list(SECONDS))
    parser.add_argument("--small", action="store_true", help="small sizes: a test of this script")
    asked = parser.parse_args(arguments)
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --small tries this without one")
    asked.out.mkdir(parents=True, exist_ok=True)
    about = describe(asked.device) | {"small": asked.small, "parts": {}}
    with tempfile.TemporaryDirectory() as place:
        for name in asked.parts:
            found = performed(commands(asked, Path(place))[name], SECONDS[name])
            said = found.pop("said")
            about["parts"][name] = found
            print(f"{name}: {found['status']}, {found['seconds']:.0f} s")
            if name == "kernels":
                print(said)
                for file in Path(place).glob("kernels.*"):
                    (asked.out / file.name).write_bytes(file.read_bytes())
            elif rows := rows_in(said):
                write(rows, asked.out, name)
                show(rows)
    (asked.out / "gpu.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return int(any(part["status"] != "done" for part in about["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
