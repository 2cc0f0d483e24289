"""The smallest run of each experiment that has all its tables, as the words of its command."""

TESTBED = "vocabulary=3 horizon=2 prompts=2 width=4 seeds=2"
SEQUENCE = "{{kind: sequence, vocabulary: 3, horizon: 2, prompts: 2, width: 4, kl: 0.5{}}}"
COMPLETIONS = (
    "seeds=1 prompt_count=4 prompts_each=4 group=4 samples=16 max_new_tokens=4 learning_rate=0.01"
)

LITTLE = (
    "updates=4 every=2 seeds=2 rest_seeds=1 rest_steps=4 group=2 "
    "testbed={model:table,vocabulary:3,horizon:2,prompts:2,width:4}"
)

DISTILLED = (
    "training=[full,topk_raw/student/4] updates=2 every=1 seeds=2 evaluated=4 completions=4 "
    "pairs=[{kind:lm,policy:embedded:reference,reference:embedded:finetuned-far,prompt_count:4,max_new_tokens:4}]"
)

RUNS = {
    "categorical": "samples=2000 batches=[1,16]",
    "claims": "claims=[dpo_gradient]",
    "distill": (
        f"pairs=[{SEQUENCE.format('')},{{kind:categorical,random:{{size:16,kl:0.5}}}}] ks=[1,4]"
        f" {LITTLE} training=[full,topk_raw/student/1,full:kl_pq@teacher]"
    ),
    "doctor": "path=ROLLOUTS",
    "distill_lm": DISTILLED,
    "distill_lm_real": DISTILLED,
    "dpo": (
        f"{TESTBED} divergences=[kl_qp,js] comparisons=[40] smoothings=[0.2] steps=20 every=10"
        " completions=16"
    ),
    "dpo_lm": (
        f"{COMPLETIONS} divergences=[kl_qp] smoothings=[] updates=4 every=2 ranked_pairs=40"
        " pairs_each=16"
    ),
    "gaussian": "samples=2000 batches=[1,16]",
    "gradient": (
        f"pairs=[{SEQUENCE.format('')},{{kind:gaussian,p:{{mean:0.5}}}}]"
        " combinations=[k1_loss,k3_loss,k1_reward]"
    ),
    "horizon": (
        "kl_tokens=[0.01] lag_tokens=[0,0.005] longest=16 chains=8 samples=128"
        " combinations=[full_loss,k3_loss]"
    ),
    "lambda": f"pairs=[{SEQUENCE.format('')}]",
    "lm": (
        "pairs=[{kind:lm,policy:embedded:finetuned-far,prompt_count:4,max_new_tokens:4}] samples=16"
        " rescored=8"
    ),
    "lm_real": (
        "pairs=[{kind:lm,policy:embedded:finetuned-far,prompt_count:4,max_new_tokens:4}] samples=16"
        " rescored=8"
    ),
    "off_policy": (
        f"lags=[0.1] pairs=[{SEQUENCE.format(', seed: 0')},{SEQUENCE.format(', seed: 1')}] "
        "combinations=[full_with_score_decision_ratio,full_with_score_sequence_ratio,k3_loss]"
    ),
    "peers": "tokens=64 rows=8 vocabulary=64 repeats=3 seconds=0.001",
    "ppo": f"{TESTBED} updates=10 noise_free_seeds=1 frontier_seeds=1",
    "ppo_lm": f"{COMPLETIONS} combinations=[k1_reward,k3_loss] updates=4 every=2",
    "precision": "estimators=[k3] points=4 smallest=-8",
    "recorded": "path=ROLLOUTS",
    "reward_model": f"{TESTBED} sizes=[40] model_steps=20 betas=[1.0,0.2] best_of=[1,4] updates=10",
    "same_kl": "",
    "schulman": "samples=2000",
    "staleness": (
        f"pairs=[{SEQUENCE.format(', behind: random')}] combinations=[k1_loss,k3_loss,k1_reward]"
    ),
    "tails": "samples=2000 batches=[1,16]",
    "temperature": (
        f"pairs=[{SEQUENCE.format('')},{{kind:lm,prompt_count:4,max_new_tokens:4}}]"
        " temperatures=[0.6,1] samples=4"
    ),
    "throughput": "samples=1000 repeats=3 seconds=0.001",
    "trainers": "audits=[AUDITED] chains=1",
    "value": "pair=gaussian pair.p.mean=0.5 samples=2000 batches=[1,16]",
}
