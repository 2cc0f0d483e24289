"""Started twice, by accelerate.

Calls of the command line that two processes share, and what each of them came to.

``two_processes.py FOLDER PORT RECORDED``: writes ``FOLDER/RANK.json``, and to ``FOLDER/RANK.txt``
what is printed past it.
"""

import contextlib
import io
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

folder, port, recorded = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rank = int(os.environ["RANK"])
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # a port for each call
file = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
os.dup2(file, 1)
os.dup2(file, 2)

from klbench import context, report  # noqa: E402
from klbench.engine.cli import command_line  # noqa: E402
from klbench.lm import loading  # noqa: E402
from klbench.runs import RunFolder  # noqa: E402
from klbench.studies.lm import run as lm_run  # noqa: E402
from klbench.types import ConfigError  # noqa: E402

report.render = lambda run, outcome, **_: (Path(run) / "index.html").write_text("blank")
RUN = (
    "exp=lm",
    "pair=lm",
    "pair.policy=embedded:finetuned-far",
    "pair.temperature=0.8",
    "pair.max_new_tokens=6",
)
SIZE = ("samples=50", "shard=8", "rescored=9", "truncations=[1,4]")
TRAINED = (
    "exp=ppo_lm",
    "combinations=[k1_reward,none]",
    "seeds=1",
    "updates=2",
    "every=1",
    "group=4",
    "prompts_each=4",
    "samples=8",
    "prompt_count=4",
    "max_new_tokens=6",
    "reward_model=true",
    "ranked_pairs=20",
    "reward_steps=2",
)
results = {}


@contextlib.contextmanager
def instead(owner, name, own, *, where):
    """In one process, another function in the place of one."""
    before = getattr(owner, name)
    if rank == where:
        setattr(owner, name, own)
    yield
    setattr(owner, name, before)


def call(name, *arguments):
    global port
    port += 1
    os.environ["MASTER_PORT"] = str(port)
    out, err = io.StringIO(), io.StringIO()
    shown = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)) if rank == 0 else ()
    with contextlib.ExitStack() as stack:
        for each in shown:
            stack.enter_context(each)
        try:
            code = command_line(list(arguments))
        except Exception:  # noqa: BLE001  # a test looks for the code
            code = traceback.format_exc()
    results[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def missing(*_, **__):
    raise ConfigError("that folder is on another disk")


def breaks(*task):
    if task[3] == 3:
        raise ZeroDivisionError("shard 3")
    return measure(*task)


def warns(*task):
    warnings.warn("out of memory, so to say", stacklevel=1)
    return measure(*task)


def stops(self, name, arrays):
    save(self, name, arrays)
    if int(arrays["shards"]) == 4:
        raise OSError("no space left")


measure, save = lm_run.measure_shard, RunFolder.save_part
context.CHECKPOINT_SECONDS = 0.0
os.chdir(folder)
call("done", *RUN, *SIZE, "out=done")
call("taken", *RUN, *SIZE, "out=done")
call("wrong", *RUN, "shard=0", "out=none")
call("other study", "exp=gaussian", "samples=1000", "out=none")
call("sweep", "-m", *RUN, "seed=1,2", "out=none")
with instead(loading, "load", missing, where=1):
    call("missing", *RUN, *SIZE, "out=none")
with instead(lm_run, "measure_shard", breaks, where=1):
    call("broken", *RUN, *SIZE, "out=broken")
with instead(lm_run, "measure_shard", warns, where=1):
    call("warned", *RUN, *SIZE, "out=warned")
with instead(RunFolder, "save_part", stops, where=0):
    call("stopped", *RUN, *SIZE, "out=stopped")
call("resumed", "resume=stopped")
call("trained", *TRAINED, "out=trained")
call("recorded", "exp=recorded", f"path={recorded}", "shard=8", "out=recorded")
(folder / f"{rank}.json").write_text(json.dumps(results))
