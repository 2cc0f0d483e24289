"""A user's mistake: exit code 2, one line that names the key, the value and what is allowed, and
nothing written.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import klbench
from klbench import estimators, pairs
from klbench.engine.conf import experiments

VALUE = ["+exp=value"]
GAUSSIAN = [*VALUE, "pair=gaussian"]
CATEGORICAL = [*VALUE, "pair=categorical"]
SEQUENCE = [*VALUE, "pair=sequence"]
EVEN = ["pair.p.probs=[0.5,0.5]"]
# Should one of these be taken for right, the run that follows is a short one.
SHORT = ["samples=100", "workers=1"]


def case(*arguments: str, says: tuple[str, ...], name: str = "") -> object:
    return pytest.param(list(arguments), says, id=name or " ".join(arguments))


NAMES = [
    case("docter", says=("'docter'", "did you mean klbench doctor ...?", "expected key=value")),
    case("+exp=valeu", says=("'valeu'", "did you mean 'value'?", "gaussian")),
    case("exp=gausian", says=("'gausian'", "did you mean 'gaussian'?", "value")),
    case("exp=", says=("experiment ''", "gaussian")),
    case(
        "exp=value", "out=\u00fc<x", says=("cannot be read", "quotes of its own", "\"out='...'\"")
    ),
    case("exp=../exp/value", says=("'../exp/value'", "gaussian")),
    case("pair=gaussian", says=("+exp=NAME", "gaussian", "value")),
    case("exp=value", "exp=gaussian", says=("exp", "2 times", "value, gaussian")),
    case(*VALUE, says=("experiment value needs pair=NAME", "gaussian", "student_t")),
    case(*VALUE, "pair=gausian", says=("'gausian'", "did you mean 'gaussian'?", "laplace")),
    case(*VALUE, "pair=", says=("pair ''", "laplace")),
    case(*VALUE, "pair=student", says=("'student'", "did you mean 'student_t'?")),
    case(
        "+exp=gaussian",
        "pair=laplace",
        says=("pair='laplace'", "experiment gaussian", "+exp=value"),
    ),
    case(
        "+exp=schulman",
        "pair=gaussian",
        "pair.q.mean=3",
        says=("pair='gaussian'", "schulman", "+exp=value"),
    ),
    case(*GAUSSIAN, "estimators=[k4]", says=("'k4'", "did you mean 'k", "bregman_js", "k_lambda")),
    case(*GAUSSIAN, "estimators=[k1,breg_js]", says=("'breg_js'", "did you mean 'bregman_js'?")),
    case(
        *GAUSSIAN,
        "estimators=schulmann",
        says=("'schulmann'", "did you mean 'schulman'?", "clamps", "k1"),
    ),
    case(*GAUSSIAN, "estimators=[k_lambda:x]", says=("'k_lambda:x'", "a number", "'x'")),
    case(*GAUSSIAN, "estimators=k_lambda:x", says=("'k_lambda:x'", "a number", "'x'")),
    case(*GAUSSIAN, "estimators=[k_lambda:]", says=("'k_lambda:'", "a number")),
    case(*GAUSSIAN, "estimators=[k_lambda:nan]", says=("'k_lambda:nan'", "finite")),
    case(*GAUSSIAN, "estimators=[k_lambda:inf]", says=("'k_lambda:inf'", "finite")),
    case(*GAUSSIAN, "estimators=[k3_clamped:-1]", says=("'k3_clamped:-1'", "positive")),
    case(*GAUSSIAN, "estimators=[bregman_alpha:1]", says=("alpha:1", "kl_qp")),
    case(*GAUSSIAN, "estimators=[k1:3]", says=("'k1:3'", "takes no number")),
    case(*GAUSSIAN, "estimators=[]", says=("estimators=[]", "at least one", "k_fitted")),
    case(*GAUSSIAN, "estimators=[k1,k1]", says=("estimators=['k1', 'k1']", "k1 is named twice")),
    case(*GAUSSIAN, "estimators=[k1,kl]", says=("estimators=['k1', 'kl']", "k1 is named twice")),
    case(
        *GAUSSIAN, "estimators=[[k1]]", says=("estimators=[['k1']]", "a list of names", "schulman")
    ),
    case(*GAUSSIAN, "estimators=3", says=("estimators=3", "a list of names", "schulman")),
    case(*GAUSSIAN, "estimators=null", says=("estimators=None", "a list of names")),
    case(*GAUSSIAN, "estimators={k1:1}", says=("estimators={'k1': 1}", "a list of names")),
    case("exp=precision", "estimators=[k1]", says=("estimators.0='k1'", "'k3'", "'bregman_js'")),
    case("exp=throughput", "estimators=[k9]", says=("'k9'", "did you mean 'k", "abs")),
    case(*VALUE, "study=nope", says=("study 'nope'", "precision", "value")),
    case("study=value", says=("+exp=NAME", "gaussian")),
    case(
        "exp=ppo",
        "preset=thorogh",
        says=("preset 'thorogh'", "did you mean 'thorough'?", "default"),
    ),
    case(
        "exp=ppo_lm",
        "algorithm=gpro",
        says=("algorithm 'gpro'", "did you mean 'grpo'?", "openrlhf_ppo", "verl_ppo"),
    ),
    case("exp=dpo", "algorithm=grpo", says=("unknown key 'algorithm'", "comparisons")),
    case("exp=ppo_lm", "preset=thorough", says=("unknown key 'preset'", "prompts_each")),
    case(*GAUSSIAN, "preset=thorough", says=("unknown key 'preset'", "samples")),
    case(
        "exp=ppo",
        "preset=[thorough]",
        says=("preset=[thorough]: expected a name", "default, thorough"),
    ),
    case("exp=ppo", "algorithm=null", says=("algorithm=null: expected a name", "grpo")),
    case(
        "exp=ppo",
        "algorithm.clip=1",
        says=("algorithm={'clip': 1}", "defaults: [ppo, override /algorithm:"),
    ),
    case("exp=ppo", "preset=default,thorough", says=("preset=default,thorough", "-m")),
    case(
        "-m",
        "exp=ppo",
        "preset=default,thorogh",
        says=("preset 'thorogh'", "did you mean 'thorough'?"),
    ),
]

KEYS = [
    case(*GAUSSIAN, "sampels=3", says=("'sampels'", "did you mean 'samples'?", "batches", "seed")),
    case(
        *GAUSSIAN,
        "pair.q.men=3",
        says=("'pair.q.men'", "did you mean 'pair.q.mean'?", "mean, std, cov"),
    ),
    case(*GAUSSIAN, "pair.r.mean=3", says=("'pair.r'", "q, p, mu")),
    case(*GAUSSIAN, "pair.q._target_=os.system", says=("'pair.q._target_'", "mean, std, cov")),
    case(*GAUSSIAN, "_target_=os.system", says=("'_target_'", "samples")),
    case(*VALUE, "pair=laplace", "pair.q.rate=1", says=("'pair.q.rate'", "loc, scale")),
    case("exp=lm", "policy=x", says=("'policy'", "a key of the pair", "say pair=lm too")),
    case("exp=lm", "polcy=x", says=("'polcy'", "did you mean 'policy'?")),
    case("exp=lm", "pair=lm", "policy=./no", says=("pair.policy='./no'", "no such folder")),
    case(
        "exp=lm",
        "pair=lm",
        "top_k=3",
        "pair.top_k=4",
        says=("top_k=3 and pair.top_k=4: give it once",),
    ),
    case("exp=gaussian", "label=x", says=("unknown key 'label'", "pairs")),
    case("exp=precision", "pair=gaussian", says=("'pair'", "points", "seed")),
    case("exp=precision", "samples=100", says=("'samples'", "points")),
    case("exp=throughput", "batches=[1]", says=("'batches'", "repeats")),
    case(*GAUSSIAN, "--nope", says=("--nope", "--help", "-m", "key=value")),
    case(*GAUSSIAN, "-x", says=("-x", "--help")),
    case(*GAUSSIAN, "--cfg", "jb", says=("--cfg", "'jb'", "job", "hydra", "all")),
    case(*GAUSSIAN, "--cfg", says=("--cfg", "expected one argument")),
    case(*GAUSSIAN, "samples=-1", "--cfg", "job", says=("samples=-1", "at least 2")),
    case(*GAUSSIAN, "sampels=1", "--cfg", "all", says=("'sampels'", "did you mean 'samples'?")),
    case(*GAUSSIAN, "--cfg", "job", "--package", "pear", says=("--package=pear", "no such part")),
    case(*GAUSSIAN, "--cfg", "job", "-m", says=("--multirun and --cfg", "one of them")),
    case(*GAUSSIAN, "--info", "all", "--cfg", "job", says=("--cfg and --info", "one of them")),
    case("--info", "nope", says=("--info", "'nope'", "searchpath")),
    case("--shell-completion", "install=cmd", says=("--shell-completion", "'cmd'", "bash")),
    case("--shell-completion", says=("--shell-completion", "install")),
    case(
        "exp=coin",
        "--config-dir",
        "nothing",
        says=("--config-dir nothing", "exp/NAME.yaml", "no such file"),
    ),
    case("exp=coin", "--config-dir", "piped", says=("piped/exp/coin.yaml: a pipe",)),
    case(
        "exp=coin",
        "--config-dir",
        "full",
        "hydra.searchpath=[full]",
        says=("--config-dir", "one of them"),
    ),
    case("exp=coin", "--config-dir", "full", says=("coin",)),
    case("gaussian", says=("'gaussian'", "key=value", "--help")),
    case(*GAUSSIAN, "~pair", says=("'~pair'", "key=value")),
    case("=3", says=("+exp=NAME",)),
    case(*GAUSSIAN, "=3", says=("=3",)),
    case(*GAUSSIAN, "hydra.nope=3", says=("'hydra.nope'",)),
    case(*GAUSSIAN, "pair.kind=nope", says=("pair 'nope'", "laplace")),
    case(*GAUSSIAN, "pair.kind=3", says=("'kind': 3", "a kind", "laplace")),
    case("exp=gaussian", "pairs.x=1", says=("pairs.x=1: cannot be set", "'x'")),
    case("exp=gaussian", "samples=9", "pairs.99=1", says=("pairs.99=1", "out of range")),
    case(*GAUSSIAN, f"{'1' * 5000}=3", says=("11111",), name="a key of 5,000 digits"),
    case(
        *GAUSSIAN,
        f"pair.{'1' * 5000}=3",
        says=("pair.11111", "File name too long"),
        name="a deeper key of 5,000 digits",
    ),
    case(
        *GAUSSIAN,
        f"seed={'1' * 5000}",
        says=("seed=11111", "4300 digits"),
        name="a number of 5,000 digits",
    ),
    case(
        *GAUSSIAN,
        f"k{'x' * 200}=3",
        says=("unknown key 'kxxxx", "xxx...; available: "),
        name="an unknown key of 200 letters",
    ),
    case(*GAUSSIAN, "hydra.sweep.subdir=x", says=("'hydra.sweep.subdir'", "hydra.searchpath")),
    case(*GAUSSIAN, "hydra.job.chdir=true", says=("'hydra.job.chdir'", "hydra.launcher.KEY")),
    case(*GAUSSIAN, "~hydra.sweep", says=("'~hydra.sweep'", "key=value")),
    case(*GAUSSIAN, "~hydra.sweep.subdir=1", says=("'~hydra.sweep.subdir'", "hydra.searchpath")),
    case(
        *GAUSSIAN,
        "hydra.searchpath=[file:///nothing]",
        says=("/nothing: expected a folder with exp/NAME.yaml", "no such file"),
    ),
    case(
        *GAUSSIAN,
        "hydra.searchpath=[file]",
        says=("expected a folder with exp/NAME.yaml", "found a file"),
    ),
    case("exp=coin", "hydra.searchpath=[piped]", says=("piped/exp/coin.yaml: a pipe",)),
]

NUMBERS = [
    case(*GAUSSIAN, "pair.q.std=-1", says=("pair.q.std=-1", "positive")),
    case(*GAUSSIAN, "pair.q.std=0", says=("pair.q.std=0", "positive")),
    case(*GAUSSIAN, "pair.p.std=[1,0]", says=("pair.p.std=[1, 0]", "positive")),
    case(*GAUSSIAN, "pair.q.std=abc", says=("pair.q.std='abc'", "a number or a list of numbers")),
    case(*GAUSSIAN, "pair.q.mean=nan", says=("pair.q.mean=nan", "finite")),
    case(*GAUSSIAN, "pair.q.mean=inf", says=("pair.q.mean=inf", "finite")),
    case(*GAUSSIAN, "pair.q.mean=[0,nan]", says=("pair.q.mean.1=nan", "finite")),
    case(*GAUSSIAN, "pair.q.mean=[0,x]", says=("pair.q.mean.1='x'", "a number")),
    case(*GAUSSIAN, "pair.q.mean=null", says=("pair.q.mean=None", "a number or a list of numbers")),
    case(*GAUSSIAN, "pair.q=3", says=("pair.q=3", "keys and values")),
    case(
        *GAUSSIAN,
        "pair.q.cov=[[1,2],[2,1]]",
        says=("pair.q.cov=[[1, 2], [2, 1]]", "positive definite", "eigenvalue is -1"),
    ),
    case(
        *GAUSSIAN,
        "pair.q.cov=[[0,0],[0,1]]",
        says=("pair.q.cov=", "positive definite", "eigenvalue is 0"),
    ),
    case(*GAUSSIAN, "pair.q.cov=[[1,2],[0,1]]", says=("pair.q.cov=", "symmetric")),
    case(*GAUSSIAN, "pair.q.cov=[[1,2]]", says=("pair.q.cov=", "square")),
    case(*GAUSSIAN, "pair.q.cov=[[1,nan],[nan,1]]", says=("pair.q.cov.0.1=nan", "finite")),
    case(*GAUSSIAN, "pair.q.cov=2", says=("pair.q.cov=2", "a list")),
    case(*GAUSSIAN, "pair.q.cov=[[1]]", "pair.q.std=2", says=("pair.q", "std or cov, not both")),
    case(
        *GAUSSIAN, "pair.q.mean=[0,0]", "pair.p.mean=[0,0,0]", says=("one dimension", "q: 2, p: 3")
    ),
    case(
        *GAUSSIAN,
        "pair.q.mean=[0,0]",
        "pair.q.std=[1,1,1]",
        says=("pair.q", "one dimension", "2 and 3"),
    ),
    case(*GAUSSIAN, "pair.q.mean=[]", says=("pair.q", "one dimension", "0")),
    case(
        *SEQUENCE, "pair.model=lstm", says=("pair.model='lstm'", "'table', 'gru' or 'transformer'")
    ),
    case(*SEQUENCE, "pair.horizon=11", says=("pair.horizon=11", "must be at most 10")),
    case(*SEQUENCE, "pair.kl=0", says=("pair.kl=0", "greater than 0")),
    case(
        *SEQUENCE, "pair.kl=500", says=("kl=500 is out of reach for this gru", "is possible here")
    ),
    case(
        *SEQUENCE,
        "pair.vocabulary=64",
        says=("vocabulary=64, horizon=4", "sequences", "at most 2,000,000"),
    ),
    case(*CATEGORICAL, says=("pair", "q and p, or random")),
    case(*CATEGORICAL, *EVEN, says=("pair", "q and p, or random")),
    case(
        *CATEGORICAL,
        *EVEN,
        "pair.q.probs=[0.5,0.6]",
        says=("pair.q.probs=[0.5, 0.6]", "sum to 1", "1.1"),
    ),
    case(*CATEGORICAL, *EVEN, "pair.q.probs=[]", says=("pair.q.probs=[]", "sum to 1", "0")),
    case(
        *CATEGORICAL,
        *EVEN,
        "pair.q.probs=[-0.5,1.5]",
        says=("pair.q.probs=[-0.5, 1.5]", "negative", "-0.5"),
    ),
    case(*CATEGORICAL, *EVEN, "pair.q.probs=[0.5,nan]", says=("pair.q.probs.1=nan", "finite")),
    case(*CATEGORICAL, *EVEN, "pair.q.probs=1", says=("pair.q.probs=1", "a list")),
    case(
        *CATEGORICAL,
        "pair.q.probs=[0.5,0.5]",
        "pair.p.probs=[1,0]",
        says=("p is zero at category 1", "KL(q‖p) is infinite"),
    ),
    case(
        *CATEGORICAL,
        *EVEN,
        "pair.q.probs=[0.5,0.5]",
        "pair.mu.probs=[0,1]",
        says=("mu is zero at category 0", "infinite"),
    ),
    case(
        *CATEGORICAL,
        *EVEN,
        "pair.q.probs=[0.2,0.3,0.5]",
        says=("number of categories", "q: 3, p: 2"),
    ),
    case(*CATEGORICAL, *EVEN, "pair.q.logits=[0,inf]", says=("pair.q.logits.1=inf", "finite")),
    case(*CATEGORICAL, *EVEN, "pair.q.logits=[]", says=("pair.q", "not be empty")),
    case(
        *CATEGORICAL,
        *EVEN,
        "pair.q.probs=[0.5,0.5]",
        "pair.q.logits=[0,0]",
        says=("pair.q", "probs or logits"),
    ),
    case(
        *CATEGORICAL,
        "pair.random.size=1",
        "pair.random.kl=1",
        says=("pair.random.size=1", "at least 2"),
    ),
    case(
        *CATEGORICAL,
        "pair.random.size=5",
        "pair.random.kl=-1",
        says=("pair.random.kl=-1", "greater than 0"),
    ),
    case(
        *CATEGORICAL,
        "pair.random.size=5",
        "pair.random.kl=100",
        says=("random.kl=100", "out of reach", "5 categories"),
    ),
    case(*CATEGORICAL, "pair.random.size=5", says=("pair.random.kl", "missing")),
    case(*VALUE, "pair=exponential", "pair.q.rate=0", says=("pair.q.rate=0", "greater than 0")),
    case(*VALUE, "pair=student_t", "pair.p.df=-1", says=("pair.p.df=-1", "at least 0.01")),
    case(*VALUE, "pair=laplace", "pair.q.scale=nan", says=("pair.q.scale=nan",)),
    case(
        *VALUE,
        "pair=mixture",
        "pair.q.weights=[0.5,0.6]",
        says=("pair.q.weights=[0.5, 0.6]", "sum to 1", "1.1"),
    ),
    case(
        *VALUE, "pair=mixture", "pair.q.weights=[1.0]", says=("pair.q", "one length", "1, 2 and 2")
    ),
    case(*VALUE, "pair=mixture", "pair.q.stds=[1,-1]", says=("pair.q.stds.1=-1", "greater than 0")),
    case(*VALUE, "pairs=[]", says=("pairs", "at least 1")),
    case(*VALUE, "pairs=3", says=("pairs=3", "a list of pairs", "laplace")),
    case(*VALUE, "pairs=[3]", says=("pairs.0=3", "a kind", "laplace")),
    case(*VALUE, "pairs=[{kind:gaussian,q:{std:-1}}]", says=("pairs.0.q.std=-1", "positive")),
    case(*VALUE, "pairs=[{kind:gausian}]", says=("'gausian'", "did you mean 'gaussian'?")),
]

COMMON = [
    case(*GAUSSIAN, "samples=0", says=("samples=0", "at least 2")),
    case(*GAUSSIAN, "samples=-5", says=("samples=-5", "at least 2")),
    case(*GAUSSIAN, "samples=1.5", says=("samples=1.5", "whole number")),
    case(*GAUSSIAN, "samples=nan", says=("samples=nan", "finite")),
    case(*GAUSSIAN, "samples=inf", says=("samples=inf", "finite")),
    case(*GAUSSIAN, "samples=1e16", says=("samples=1e+16", "at most")),
    case(*GAUSSIAN, "samples=1e30", says=("samples=1e+30", "too large")),
    case(*GAUSSIAN, "samples=abc", says=("samples='abc'", "whole number")),
    case(*GAUSSIAN, "samples=", says=("samples=''", "whole number")),
    case(*GAUSSIAN, "samples=null", says=("samples=None", "whole number")),
    case(*GAUSSIAN, "samples=[1,2]", says=("samples=[1, 2]", "whole number")),
    case(*GAUSSIAN, "workers=0", says=("workers=0", "at least 1")),
    case(*GAUSSIAN, "workers=1.5", says=("workers=1.5", "whole number")),
    case(*GAUSSIAN, "workers=two", says=("workers='two'", "whole number")),
    case(*GAUSSIAN, "workers=99999", says=("workers=99999", "at most 4096")),
    case(*GAUSSIAN, "seed=-1", says=("seed=-1", "at least 0")),
    case(*GAUSSIAN, "seed=1.5", says=("seed=1.5", "whole number")),
    case(*GAUSSIAN, "seed=1e19", says=("seed=1e+19",)),
    case(*GAUSSIAN, "device=gpu", says=("device='gpu'", "'cpu' or 'cuda'")),
    case(*GAUSSIAN, *SHORT, "device=cuda", says=("device='cuda'", "value", "cpu")),
    case(*GAUSSIAN, "cluster=slurm", says=("cluster='slurm'", "'dask' or 'ray'")),
    case(*GAUSSIAN, "batches=[0]", says=("batches.0=0", "at least 1")),
    case(*GAUSSIAN, "batches=[]", says=("batches=[]", "at least 1")),
    case(*GAUSSIAN, "batches=3", says=("batches=3", "a list")),
    case(*GAUSSIAN, "batches=[1,1.5]", says=("batches.1=1.5", "whole number")),
    case(*GAUSSIAN, "batches=[1,x]", says=("batches.1='x'", "whole number")),
    case(*GAUSSIAN, "batches=[2097152]", says=("batches.0=2097152", "at most 1048576")),
    case(*GAUSSIAN, "diagnostic_samples=-1", says=("diagnostic_samples=-1", "at least 0")),
    case("exp=precision", "points=1", says=("points=1", "at least 2")),
    case("exp=precision", "dtypes=[float8]", says=("dtypes.0='float8'", "'float32'")),
    case("exp=throughput", "seconds=0", says=("seconds=0", "greater than 0")),
    case("exp=throughput", "seconds=nan", says=("seconds=nan",)),
    case("exp=throughput", "repeats=1", says=("repeats=1", "at least 3")),
    *(
        case(
            *GAUSSIAN,
            *SHORT,
            f"cluster={cluster}",
            f"address='{address}'",
            says=(f"address='{address}'", "HOST:PORT", says),
        )
        for cluster, says in (("dask", "tcp://"),)
        for address in (
            "garbage",
            "tcp://",
            "tcp://x",
            "nope://x:1",
            "ray://x:1",
            "x:0",
            "x:65536",
            "tcp://x:8786/",
            "x:y",
            ":1",
        )
    ),
]

SYNTAX = [
    case(*GAUSSIAN, "pair.q.mean=[0", says=("pair.q.mean=[0", "cannot be read")),
    case(*GAUSSIAN, "pair.label='a", says=("pair.label='a", "cannot be read")),
    case(*GAUSSIAN, "a b=3", says=("a b=3", "cannot be read")),
    case(*GAUSSIAN, "pair.q.mean=1\n2", says=("pair.q.mean=1", "cannot be read"), name="a newline"),
    case(*GAUSSIAN, "seed=1,2", says=("seed=1,2", "[a,b]", "-m")),
    case(*GAUSSIAN, "samples=1e3,1e4", says=("samples=1e3,1e4", "-m")),
    case(
        *GAUSSIAN,
        "pair.q.mean=${oc.env:KLBENCH_TEST}",
        says=("pair.q.mean='/some where'", "a number"),
    ),
    case(*GAUSSIAN, "pair.q.mean=${oc.env:KLBENCH_NOT_SET}", says=("KLBENCH_NOT_SET", "not found")),
    case(*GAUSSIAN, "pair.q.mean=${nope}", says=("'nope'", "not found")),
    case(*GAUSSIAN, "pair.q.mean=${nope:1}", says=("nope",)),
    case(*GAUSSIAN, "pair.q.mean=${", says=("pair.q.mean=${", "cannot be read")),
    case(*GAUSSIAN, "pair.label='\udcff'", says=(r"\udcff, half of a character",)),
    case(
        *GAUSSIAN,
        f"estimators={'[' * 5000}{']' * 5000}",
        says=("estimators=[[[", "nested too deeply"),
        name="5,000 brackets",
    ),
    case(
        *GAUSSIAN,
        f"estimators={'[' * 90}{']' * 90}",
        says=("nested more than 64 levels deep",),
        name="90 brackets",
    ),
]

PLACES = [
    case(*GAUSSIAN, *SHORT, "out=full", says=("out=full", "exists", "resume=full")),
    case(*GAUSSIAN, *SHORT, "out=file", says=("out=file", "exists", "new folder")),
    case(
        *GAUSSIAN,
        *SHORT,
        "out=file/below",
        says=("out=file/below", "cannot be", "name a folder that can"),
    ),
    case(
        *GAUSSIAN,
        *SHORT,
        "out=/proc/klbench/run",
        says=("out=/proc/klbench/run", "cannot be", "name a folder that can"),
    ),
    case(
        *GAUSSIAN,
        *SHORT,
        f"out={'a' * 300}",
        says=("out=aaa", "too long"),
        name="out of 300 letters",
    ),
    case(
        *GAUSSIAN, *SHORT, "out=loop", says=("out=loop", "symbolic links", "name a folder that can")
    ),
    case(*GAUSSIAN, *SHORT, "out=loop/below", says=("out=loop/below", "symbolic links")),
    case(*GAUSSIAN, *SHORT, "out='a\0b'", says=("embedded null",), name="out with a null byte"),
    case("resume=pipe", says=("pipe", "a run folder")),
    case(
        f"resume={'a' * 300}",
        says=("aaa", "a run folder with a run.json, found no such folder"),
        name="resume of 300 letters",
    ),
    *(
        case(*before, f"{key}{name}", says=(said,), name=f"{key}{label}")
        for before, key in (
            (("exp=lm", "pair=lm"), "prompts="),
            (("exp=ppo_lm",), "sft="),
            (("exp=dpo_lm",), "preferences="),
            (("exp=recorded",), "path="),
            (("exp=ppo_lm", "pretraining_weight=1"), "pretraining="),
        )
        for label, name, said in (
            ("a pipe", "pipe.jsonl", "a pipe, neither a file nor a folder"),
            ("300 letters", "a" * 300 + ".jsonl", "File name too long"),
            ("a loop", "loop.jsonl", "symbolic links"),
        )
    ),
    *(
        case(*before, f"{key}=/dev/zero", says=("a device, neither a file nor a folder",))
        for before, key in (
            (("exp=lm", "pair=lm"), "prompts"),
            (("exp=ppo_lm",), "sft"),
            (("exp=dpo_lm",), "policy"),
        )
    ),
    *(
        case("exp=dpo_lm", f"policy={name}", says=said, name=f"policy={name[:5]} of 300 letters")
        for name, said in (
            ("./" + "a" * 300, ("no such folder", "too long")),
            ("a" * 300, ("nor a hub id such as org/name",)),
        )
    ),
    case(*GAUSSIAN, *SHORT, "out=3", says=("out=3", "text")),
    case(*GAUSSIAN, *SHORT, "out=[a]", says=("out=['a']", "text")),
    case("resume=nothing", says=("nothing", "a run folder", "no such folder")),
    case("resume=full", says=("full", "a run folder with a run.json", "none")),
    case("resume=file", says=("file", "a run folder", "no such folder")),
    case("resume=", says=("a run folder",)),
    case("resume=strange", says=("strange", "run.json")),
]

SWEEPS = [
    case("-m", says=("+exp=NAME", "gaussian")),
    case("-m", *GAUSSIAN, *SHORT, "pair.q.std=1,0", says=("pair.q.std=0", "positive")),
    case("-m", *GAUSSIAN, *SHORT, "estimators=[k1],[k9]", says=("'k9'", "did you mean")),
    case("-m", "exp=value,valeu", "pair=gaussian", says=("'valeu'", "did you mean 'value'?")),
    case("-m", *VALUE, "pair=laplace,gausian", says=("'gausian'", "did you mean 'gaussian'?")),
    case("-m", *GAUSSIAN, *SHORT, "seed=1,2", "--nope", says=("--nope", "--help")),
    case("-m", *GAUSSIAN, *SHORT, "seed=1,2", "out=full", says=("out=full", "exists")),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=1,2",
        "out=/proc/klbench/sweep",
        says=("out=/proc/klbench/sweep", "cannot be"),
    ),
    case("-m", *GAUSSIAN, *SHORT, "out=a,b", says=("out=a,b", "one folder")),
    case("-m", *GAUSSIAN, *SHORT, "out=${nope}", says=("out=${nope}", "not found")),
    case("-m", *GAUSSIAN, *SHORT, "seed=1,2", "resume=full", says=("resume", "swept")),
    case("-m", *GAUSSIAN, *SHORT, "seed=range(1,3", says=("seed=range(1,3", "cannot be read")),
    case("-m", *GAUSSIAN, *SHORT, "seed=1,2", "hydra/launcher=nope", says=("hydra/launcher/nope",)),
    case("-m", *GAUSSIAN, *SHORT, "seed=1,2", "hydra.nope=3", says=("'hydra.nope'",)),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=1,2",
        "hydra.sweeper._target_=os.system",
        says=("'hydra.sweeper._target_'",),
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=1,2",
        "hydra.launcher._target_=os.system",
        says=("'hydra.launcher._target_'",),
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=1,2",
        "hydra.launcher.x={_target_:os.system}",
        says=("'hydra.launcher.x'",),
    ),
    case(
        "-m", *GAUSSIAN, *SHORT, "seed=1,2", "hydra.sweep.subdir=x", says=("'hydra.sweep.subdir'",)
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=range(0,1,0)",
        says=("seed=range(0,1,0)", "a step that is not 0"),
    ),
    case("-m", *GAUSSIAN, *SHORT, "pair.q.mean=range(0.0,1.0,0.0)", says=("a step that is not 0",)),
    case(
        "-m", *GAUSSIAN, *SHORT, "pair.q.mean=range(0,1,1e-320)", says=("too small for the range",)
    ),
    case("-m", *GAUSSIAN, *SHORT, "pair.q.mean=range(0,inf)", says=("range(0,inf)",)),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=range(3,3)",
        says=("seed=range(3,3): there is no value in it",),
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=range(3,0)",
        says=("seed=range(3,0): there is no value in it",),
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=glob(*)",
        says=("seed=glob(*): expected values, a,b,c, or range(start,stop,step)",),
    ),
    case("-m", *GAUSSIAN, *SHORT, "exp=glob(*)", says=("glob(*)",)),
    case(
        "-m", *GAUSSIAN, *SHORT, "seed=interval(0,1)", says=("seed=interval(0,1): expected values",)
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=range(1,1000000000)",
        says=("these are 999,999,999 runs, expected 1,000 at most",),
    ),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=shuffle(range(1,1000000000))",
        says=("these are 999,999,999 runs",),
    ),
    case("-m", *GAUSSIAN, *SHORT, "seed=range(0,1001)", says=("these are 1,001 runs",)),
    case(
        "-m",
        *GAUSSIAN,
        *SHORT,
        "seed=range(0,500)",
        "samples=2,3,4",
        says=("these are 1,500 runs",),
    ),
    case(
        "-m", *GAUSSIAN, *SHORT, "pair.q.mean=range(0,1,1e-6)", says=("these are 1,000,000 runs",)
    ),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file, a folder that is taken, a ``run.json`` of somebody else, pipes, and
    links to themselves.
    """
    (tmp_path / "file").touch()
    for name, text in (("full", ""), ("strange", "[1, 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("run.json" if text else "kept")).write_text(text)
    monkeypatch.setenv("KLBENCH_TEST", "/some where")
    (tmp_path / "piped" / "exp").mkdir(parents=True)
    for name in ("pipe", "pipe.jsonl", "piped/exp/coin.yaml"):
        os.mkfifo(tmp_path / name)
    for name in ("loop", "loop.jsonl"):
        (tmp_path / name).symlink_to(name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"), [*NAMES, *KEYS, *NUMBERS, *COMMON, *SYNTAX, *PLACES, *SWEEPS]
)
def test_one_line_exit_code_2_and_nothing_written(
    call, contents, place, arguments: list[str], says: tuple[str, ...]
) -> None:
    before = contents(place)
    called = call(*arguments, folder=place)
    assert called.code == 2, called
    assert called.out == ""
    (line,) = called.err.splitlines()
    assert line.startswith("klbench: ")
    assert called.err.endswith("\n")
    assert "Traceback" not in line
    for words in says:
        assert words in line
    assert contents(place) == before


def test_python_gets_the_same_message_as_an_exception(call, place, monkeypatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(klbench.ConfigError) as error:
        klbench.run("value", "pair=gaussian", "pair.q.std=-1")
    assert call(*GAUSSIAN, "pair.q.std=-1", folder=place).err == f"klbench: {error.value}\n"


def test_what_is_unknown_is_answered_with_all_there_is(call, place) -> None:
    for arguments, available in (
        (["exp=q"], experiments()),
        ([*VALUE, "pair=q"], pairs.names()),
        ([*GAUSSIAN, "estimators=[q]"], estimators.names()),
    ):
        words = call(*arguments, folder=place).err.replace(",", " ").split()
        assert set(available) <= set(words)


def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(
    call, contents, place, monkeypatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = contents(place)
    called = call("exp=throughput", "device=cuda", "samples=10", "seconds=1e-6", folder=place)
    assert (called.code, called.out) == (2, "")
    assert called.err == "klbench: device='cuda': torch sees no GPU here; use device=cpu\n"
    assert contents(place) == before


@pytest.mark.parametrize(("cluster", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_without_its_package_is_said_before_anything_is_written(
    call, contents, place, monkeypatch, cluster: str, package: str
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else found(name, *rest),
    )
    before = contents(place)
    called = call(*GAUSSIAN, *SHORT, f"cluster={cluster}", folder=place)
    assert (called.code, called.out) == (2, "")
    assert (
        called.err == f"klbench: cluster='{cluster}': {cluster} is not installed here; pip install"
        " 'klbench[cluster]'\n"
    )
    assert contents(place) == before


@pytest.fixture(scope="module")
def done(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert (
        call(*GAUSSIAN, *SHORT, "estimators=[k1]", "batches=[1]", "out=run", folder=folder).code
        == 0
    )
    return folder


@pytest.fixture
def unfinished(done, tmp_path):
    shutil.copytree(done / "run", tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    return tmp_path


def refused(call, contents, folder: Path, *arguments: str) -> str:
    before = contents(folder)
    called = call(*arguments, folder=folder)
    assert (called.code, called.out) == (2, "")
    (line,) = called.err.splitlines()
    assert contents(folder) == before
    return line


def test_resume_of_a_run_that_is_done(call, contents, done) -> None:
    line = refused(call, contents, done, "resume=run")
    assert "resume=run: that run is done" in line
    assert "python -m klbench report run" in line


@pytest.mark.parametrize(
    "key", ["samples=5", "seed=3", "estimators=[k1]", "pair=gaussian", "out=other"]
)
def test_resume_with_another_key(call, contents, unfinished, key: str) -> None:
    line = refused(call, contents, unfinished, "resume=run", key)
    assert line.startswith(f"klbench: {key}: ")
    assert "workers" in line


def test_resume_with_another_experiment(call, contents, unfinished) -> None:
    line = refused(call, contents, unfinished, "exp=gaussian", "resume=run")
    assert line == "klbench: exp=gaussian: run is a run of value"


def test_resume_with_a_wrong_number_of_workers(call, contents, unfinished) -> None:
    line = refused(call, contents, unfinished, "resume=run", "workers=0")
    assert line == "klbench: workers=0: must be at least 1"


def test_resume_in_a_sweep(call, contents, unfinished) -> None:
    line = refused(call, contents, unfinished, "-m", "resume=run", "workers=1,2")
    assert "resume cannot be swept" in line


@pytest.mark.parametrize(
    "text",
    [
        "study: value\npair: !!python/object/apply:os.mkdir [ran]\n",
        "study: value\npair: !!python/name:os.system\n",
        "study: [value\n",
        "- study\n",
        "",
        "study: value\nsamples: 100\npair: {kind: gaussian, q: {mean: '${oc.env:HOME}'}}\n",
        "study: value\nsamples: 100\npair: {kind: gaussian, q: {_target_: os.mkdir}}\n",
        "study: value\nsamples: 100\npair: {kind: os.mkdir}\n",
    ],
)
def test_resume_of_a_configuration_that_was_meddled_with_is_data_that_is_wrong(
    call, contents, unfinished, text: str
) -> None:
    (unfinished / "run" / "config.yaml").write_text(text)
    refused(call, contents, unfinished, "resume=run")
    assert not (unfinished / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.yaml", "[" * 5000, "nested too deeply"),
        (
            "config.yaml",
            "study: value\nx: " + "[" * 90 + "]" * 90,
            "nested more than 64 levels deep",
        ),
        ("config.yaml", 'study: value\nlabel: "\\ud800"', "half of a character"),
        ("config.yaml", "study: value\nseed: " + "1" * 5000, "Exceeds the limit"),
        (
            "config.yaml",
            "1: 2\nstudy: value\npair: {kind: gaussian}\nsamples: 9",
            "unknown key '1'",
        ),
        (
            "config.yaml",
            "".join(
                f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else '1'] * 9)}]\n" for k in range(9)
            ),
            "values",
        ),
        ("run.json", "[" * 10**5, "its run.json is not one that klbench wrote"),
        ("run.json", '{"experiment": "\\ud800"}', "its run.json is not one that klbench wrote"),
        ("run.json", "1" * 5000, "its run.json is not one that klbench wrote"),
        (
            "run.json",
            '{"experiment": 3}',
            "its run.json says experiment=3, where klbench writes a str",
        ),
        ("run.json", '{"status": "running"}', "its run.json names no experiment"),
        ("run.json", None, "a run folder with a run.json"),
        ("config.yaml", None, "a pipe"),
    ],
)
def test_resume_of_files_that_cannot_be_taken_in(
    call, contents, unfinished, name: str, text: str | None, says: str
) -> None:
    (unfinished / "run" / name).unlink()
    if text is None:
        os.mkfifo(unfinished / "run" / name)
    else:
        (unfinished / "run" / name).write_text(text)
    assert says in refused(call, contents, unfinished, "resume=run")


def test_from_a_folder_that_is_no_more(call, tmp_path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (
        ["exp=value", "pair=gaussian", "out=x"],
        ["-m", *GAUSSIAN, "seed=1,2"],
        ["resume=x"],
    ):
        called = call(*arguments, folder=None)
        assert (called.code, called.out) == (2, "")
        assert called.err.startswith("klbench: the working folder is not there any more")
        assert called.err.count("\n") == 1


def test_what_shows_only_at_work_leaves_no_folder_either(
    call, contents, place, monkeypatch
) -> None:
    from klbench.pairs.gaussian import GaussianPair

    def draw(self: object, stream: object, n: int) -> None:
        raise klbench.ConfigError("no more draws")

    monkeypatch.setattr(GaussianPair, "draw", draw)
    for out in ("out=a/b/c", "out=d"):
        assert refused(call, contents, place, *GAUSSIAN, *SHORT, out) == "klbench: no more draws"
    (place / "a").mkdir()
    assert call(*GAUSSIAN, *SHORT, "out=a/b/c", folder=place).code == 2
    assert list((place / "a").iterdir()) == []  # it was there before


def test_resume_without_its_configuration(call, contents, unfinished) -> None:
    (unfinished / "run" / "config.yaml").unlink()
    assert "config.yaml" in refused(call, contents, unfinished, "resume=run")


def test_a_process_of_its_own_says_the_same_at_once(place, contents) -> None:
    """And it has loaded nothing of what only a run needs."""
    before = contents(place)
    program = (
        "import sys; from klbench.engine.cli import command_line; code ="
        " command_line(sys.argv[1:]);heavy = {'torch', 'scipy', 'matplotlib', 'joblib'}"
        " & set(sys.modules);sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    arguments = [*GAUSSIAN, "pair.q.std=-1"]
    for start in (["-c", program], ["-m", "klbench"]):
        ended = subprocess.run(
            [sys.executable, *start, *arguments], cwd=place, capture_output=True, text=True
        )
        assert ended.stderr == "klbench: pair.q.std=-1: must be positive\n"
        assert (ended.returncode, ended.stdout) == (2, "")
    assert contents(place) == before
