"""The doctor on rollouts with one fault each: what it says, and how often healthy ones alarm.

``python benchmarks/doctor_faults.py`` prints tables; ``... publish`` writes
``reports/published/doctor``: recordings, and a page each.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import pages
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from recordings import FAULTS, Columns, Scene, lagging, record

import klbench
from klbench.doctor.api import doctor
from klbench.doctor.findings import Diagnosis

PUBLISHED = Path(__file__).resolve().parents[1] / "reports" / "published" / "doctor"
SIXTEEN = (
    "temperature_0.6",
    "temperature_1.3",
    "top_p_0.8",
    "top_k_20",
    "bfloat16",
    "int8",
    "lag_8",
    "lag_64",
    "dropout",
    "adapter",
    "padding",
    "end_token",
    "shift",
    "swap",
    "probabilities",
    "base_2",
    "template",
    "row",
)
"""The faults that are published, and counted."""
HEALTHY = ("healthy", "one_behind")
POLICIES = (
    "finetuned-near",
    "finetuned-midway",
    "finetuned-far",
    "sharpened-near",
    "sharpened-midway",
    "sharpened-far",
)


def scene(name: str, rollouts: int = 200, seed: int = 0) -> Scene:
    """Return who samples and scores.

    An adapter and swapped columns need two models that are far enough apart to tell.
    """
    policy = "finetuned-far" if name in ("adapter", "swap") else "finetuned-midway"
    return Scene(policy=policy, rollouts=rollouts, seed=seed)


def said(diagnosis: Diagnosis) -> str:
    """Return the first cause and its score, and whether it is an alarm."""
    first = diagnosis.cause[0]
    return f"{first.name} {first.score:.2f}{', alarm' if diagnosis.alarms else ''}"


def faults(sizes: tuple[int, ...] = (20, 200, 2_000)) -> str:
    """Return the table of what is said of each fault at several numbers of rollouts."""
    lines = ["| fault | " + " | ".join(f"{size:,} rollouts" for size in sizes) + " |"]
    lines.append("|---" * (1 + len(sizes)) + "|")
    right: Counter[int] = Counter()
    for name in (*SIXTEEN, *HEALTHY):
        cells = []
        for size in sizes:
            found = doctor(pd.DataFrame(FAULTS[name][1](scene(name, size))))
            expected = "stale_weights" if name == "one_behind" else FAULTS[name][0]
            right[size] += name in SIXTEEN and found.cause[0].name == expected
            cells.append(said(found))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    counts = [f"{right[size]} of {len(SIXTEEN)} at {size:,}" for size in sizes]
    return "\n".join([*lines, "", f"The right cause is first: {', '.join(counts)}."])


def healthy(each: int = 12) -> str:
    """Return how many healthy recordings alarm.

    Every policy, an engine's noise of 1e-5 and 1e-3, and one update behind.
    """
    alarms: Counter[str] = Counter()
    for policy in POLICIES:
        for seed in range(each):
            own = Scene(policy=policy, seed=100 + seed, engine=(1e-5, 1e-3)[seed % 2])
            alarms["all"] += 1
            alarms["alarm"] += bool(doctor(pd.DataFrame(record(own).columns())).alarms)
        for seed in range(5):
            late = lagging(1, 3e-5)(Scene(policy=policy, seed=100 + seed))
            alarms["all"] += 1
            alarms["alarm"] += bool(doctor(pd.DataFrame(late)).alarms)
    return f"Of {alarms['all']} healthy recordings {alarms['alarm']} alarm."


def write(columns: Columns, path: Path) -> None:
    """Write a recording as Parquet, log-probabilities in single precision and prompts as
    numbers.
    """
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(columns["prompt"]))}
    arrays = {
        name: pa.array(
            [numbers[each] for each in values] if name == "prompt" else values,
            (
                pa.int32()
                if name == "prompt"
                else pa.list_(pa.int32() if name == "tokens" else pa.float32())
            ),
        )
        for name, values in columns.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path, compression="zstd", use_dictionary=False)


def publish() -> None:
    """Write the recordings, and a run folder of each."""
    lines = [
        "# What the doctor says of one fault at a time",
        "",
        (
            "200 rollouts of 24 tokens of the embedded models, each with one fault"
            " (`benchmarks/recordings.py`)."
        ),
        "",
        "| recording | what the doctor says |",
        "|---|---|",
    ]
    for name in (*SIXTEEN, *HEALTHY):
        file = PUBLISHED / "recordings" / f"{name}.parquet"
        write(FAULTS[name][1](scene(name)), file)
        folder = PUBLISHED / name
        shutil.rmtree(folder, ignore_errors=True)
        path = file.relative_to(Path.cwd())
        run = klbench.run("doctor", f"path={path}", f"out={folder.relative_to(Path.cwd())}")
        pages.write_extract(run.path / "index.html", run.path)
        page = f"[{said(doctor(file))}]({name}/)"
        lines.append(f"| [{name}](recordings/{name}.parquet) | {page} |")
    lines += [
        "",
        (
            "Its thresholds were set on recordings of this recorder: these are in sample; of"
            " recordings of other models by another recorder see"
            " [what it says there](../../../benchmarks/doctor_holdout.md)."
        ),
        "",
        "`python benchmarks/doctor_faults.py publish`",
        "",
    ]
    (PUBLISHED / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["publish"]:
        publish()
    else:
        for part in (faults, healthy):
            print(part(), flush=True)
            print()
