"""Every row of a trainer that names a package, beside the package's own functions.

Value and gradient on the same inputs.

Without the packages (`make .peers/.installed`, then PYTHONPATH=.peers) the tests are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from klbench import gradients, trainers
from klbench.gradients.surrogate import centred, parts, surrogate
from klbench.trainers._trainer import CONSTANT, LENGTH, RETURNS, SEQUENCES, TOKENS
from klbench.trainers.installed import MissingError, expression, function, module
from klbench.types import Rollouts

F64 = torch.float64
GROUP, N, T = 3, 6, 5
EDGES = (-25.0, -12.0, -9.0, 5.0, 9.0, 12.0, 25.0)
"""Log-ratios on both sides of every clamp, in nats."""


@dataclass(frozen=True)
class Data:
    """Two prompts' completions under the policy, the reference and who sampled.

    Nothing counts where the mask is False.
    """

    new: Tensor
    ref: Tensor
    old: Tensor
    mask: Tensor

    def rollouts(self, *, fresh: bool = False) -> Rollouts:
        """For klbench; ``fresh``: sampled by the policy itself."""
        old = self.new.detach() if fresh else self.old
        return Rollouts(self.new, self.ref, old, torch.zeros_like(self.new), self.mask)


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(11)
    old = -2.0 + 0.5 * torch.randn(N, T, dtype=F64, generator=generator)
    new = old + 0.9 * torch.randn(N, T, dtype=F64, generator=generator)
    ref = new + 0.8 * torch.randn(N, T, dtype=F64, generator=generator)
    mask = torch.arange(T) < torch.tensor([5, 2, 4, 1, 3, 5])[:, None]
    return Data(new.requires_grad_(), ref, old, mask)


@pytest.fixture
def edges(data) -> Data:
    """The same with log-ratios on both sides of every clamp, and weights on both sides of 10."""
    ref, old = data.ref.clone(), data.old.clone()
    where = data.mask.nonzero()[: 2 * len(EDGES) : 2]
    for (i, t), log_ratio in zip(where, EDGES, strict=True):
        ref[i, t] = data.new[i, t].detach() + log_ratio
    old[0, 1], old[2, 2] = data.new[0, 1].detach() - 3.0, data.new[2, 2].detach() + 3.0
    return Data(data.new, ref, old, data.mask)


def taken(distribution, file, name, **more):
    """A function of an installed trainer, with what it takes from its neighbours."""
    try:
        space = module(distribution, file).space
        space.update(more)
        made = function(distribution, file, name)
    except MissingError as error:
        pytest.skip(str(error))
    for each in (
        space,
        made.__globals__,
    ):  # an import of several names that failed has taken their places
        each.update(more)
    return made


def trl_grpo(options, data, advantages=None, *, delta=None, **more) -> Tensor:
    """The whole loss; advantages of 0, which it has unless others are given, leave the penalty."""
    compute = taken(
        "trl",
        "trl/trainer/grpo_trainer.py",
        "GRPOTrainer._compute_loss",
        nanmin=torch.min,
        nanmax=torch.max,
    )
    arguments = MagicMock(
        use_bias_correction_kl=options.get("use_bias_correction_kl"),
        delta=delta,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.0,
    )
    trainer = MagicMock(
        **{
            "top_entropy_quantile": 1.0,
            "off_policy_mask_threshold": None,
            "beta": 1.0,
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "use_vllm": False,
            "importance_sampling_level": options["importance_sampling_level"],
            "loss_type": options["loss_type"],
            "aux_loss_enabled": False,
            "_entropy_bonus_enabled": False,
            "max_completion_length": T,
            "args": arguments,
        }
        | more
    )
    trainer.model.training = False
    trainer.accelerator.num_processes = 1
    trainer.accelerator.gather.side_effect = trainer.accelerator.gather_for_metrics.side_effect = (
        lambda x: x
    )
    n = len(data.new)
    trainer.get_gamma_weights.return_value = torch.zeros(n, 1, dtype=F64)
    trainer._get_per_token_logps_and_entropies.return_value = (
        data.new,
        torch.ones_like(data.new),
        None,
    )
    ids = torch.zeros(n, T, dtype=torch.long)
    return compute(
        trainer,
        None,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": torch.ones(n, 1),
            "completion_ids": ids,
            "completion_mask": data.mask.long(),
            "advantages": torch.zeros(n, dtype=F64) if advantages is None else advantages,
            "old_per_token_logps": data.old,
            "ref_per_token_logps": data.ref,
            "num_items_in_batch": data.mask.sum(),
        },
    )


def trl_rloo(options, data) -> Tensor:
    """The advantages that are left of the penalty alone."""
    file, name = "trl/trainer/rloo_trainer.py", "RLOOTrainer._generate_and_score_completions"

    def assigned(target, **arguments):
        try:
            return expression("trl", file, name, target, tuple(arguments))(*arguments.values())
        except MissingError as error:
            pytest.skip(str(error))

    per_token = assigned(
        "per_token_kl", old_per_token_logps=data.new.detach(), ref_per_token_logps=data.ref
    )
    rewards = -assigned("kl", per_token_kl=per_token, completion_mask=data.mask)
    grouped = rewards.view(-1, GROUP)
    counts = assigned("scorable_counts", grouped_rewards=grouped)
    total = assigned("grouped_sum", grouped_rewards=grouped)
    baselines = assigned(
        "baselines", grouped_sum=total, grouped_rewards=grouped, scorable_counts=counts
    )
    return (rewards - baselines.view(-1))[:, None].expand(N, T)


def verl_function(name, file="verl/trainer/ppo/core_algos.py", **more):
    functional = "verl/utils/torch_functional.py"
    neighbours = ("masked_whiten", "masked_mean", "masked_sum")
    space = SimpleNamespace(**{each: taken("verl", functional, each) for each in neighbours})
    other = type("Other", (), {})
    own = {"verl_F": space, "AlgoConfig": other, "ActorConfig": other}
    return taken("verl", file, name, **own | more)


def verl(options, data) -> Tensor:
    actor, algorithm = "actor_rollout_ref.actor.", "algorithm."
    if options[actor + "use_kl_loss"]:
        terms = verl_function("kl_penalty")(data.new, data.ref, options[actor + "kl_loss_type"])
        return verl_function("agg_loss")(terms, data.mask.to(F64), options[actor + "loss_agg_mode"])
    core = SimpleNamespace(kl_penalty=verl_function("kl_penalty"), AdaptiveKLController=None)
    mean = taken("verl", "verl/utils/torch_functional.py", "masked_mean")
    apply = verl_function(
        "apply_kl_penalty",
        "verl/trainer/ppo/ray_trainer.py",
        core_algos=core,
        masked_mean=mean,
        DataProto=None,
    )
    mask = data.mask.to(F64)
    batch = type("Batch", (dict,), {"batch_size": [N]})(
        response_mask=mask,
        token_level_scores=torch.zeros_like(mask),
        old_log_probs=data.new.detach(),
        ref_log_prob=data.ref,
    )
    controller = SimpleNamespace(value=1.0, update=lambda **_: None)
    apply(SimpleNamespace(batch=batch), controller, options[algorithm + "kl_penalty"])
    rewards, index = batch["token_level_rewards"], np.repeat(np.arange(N // GROUP), GROUP)
    estimators = {
        "gae": lambda: verl_function("compute_gae_advantage_return")(
            rewards, torch.zeros_like(mask), mask, 1.0, 1.0
        )[1],
        "reinforce_plus_plus": lambda: verl_function(
            "compute_reinforce_plus_plus_outcome_advantage"
        )(rewards, mask, config=SimpleNamespace(gamma=1.0))[1],
        "grpo": lambda: verl_function("compute_grpo_outcome_advantage")(
            rewards, mask, index, norm_adv_by_std_in_grpo=False
        )[0],
        "grpo_vectorized": lambda: verl_function(
            "compute_grpo_vectorized_outcome_advantage",
            **{
                each: taken("verl", "verl/utils/groupwise.py", each)
                for each in ("as_torch_index", "group_mean_std")
            },
        )(rewards, mask, index, norm_adv_by_std_in_grpo=False)[0],
        "reinforce_plus_plus_baseline": lambda: verl_function(
            "compute_reinforce_plus_plus_baseline_outcome_advantage",
            verl_F=SimpleNamespace(masked_whiten=lambda x, _: x),
        )(rewards, mask, index)[0],
        "remax": lambda: verl_function("compute_remax_outcome_advantage")(
            rewards, torch.zeros(N, dtype=F64), mask
        )[0],
        "gpg": lambda: verl_function("compute_gpg_outcome_advantage")(rewards, mask, index)[0],
        **{
            name: lambda name=name: verl_function(f"compute_{name}_outcome_advantage")(
                rewards, mask, index
            )[0]
            for name in ("rloo", "rloo_vectorized")
        },
    }
    return estimators[options[algorithm + "adv_estimator"]]()


def verl_distillation(options, data) -> Tensor:
    """A loss of its own, or the policy's loss with the detached terms for advantages."""
    mask, average = data.mask.to(F64), options["actor_rollout_ref.actor.loss_agg_mode"]
    terms = verl_function("kl_penalty")(
        data.new, data.ref, options["distillation.distillation_loss.loss_mode"]
    )
    if not options["distillation.distillation_loss.use_policy_gradient"]:
        return verl_function("agg_loss")(terms, mask, average)
    config = MagicMock(
        clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.2, global_batch_info={}
    )
    config.get = lambda key, default: default
    loss = verl_function("compute_policy_loss_vanilla")
    return loss(data.new.detach(), data.new, -terms.detach(), mask, average, config)[0]


def openrlhf(options, data) -> Tensor:
    penalty = taken("openrlhf", "openrlhf/models/utils.py", "compute_approx_kl", deepspeed=None)
    estimator, mask = options["algo.kl.estimator"], data.mask.to(F64)
    if options["algo.kl.use_loss"]:
        terms = penalty(
            data.new, data.ref, data.old, estimator, options["algo.kl.unbiased_gradient"]
        )
        mean = taken("openrlhf", "openrlhf/models/utils.py", "masked_mean")
        aggregate = taken("openrlhf", "openrlhf/models/loss.py", "aggregate_loss", masked_mean=mean)
        return aggregate(terms, mask, options["actor.loss_agg_mode"] == "token-mean")
    file, owner = "openrlhf/trainer/ppo_utils/experience_maker.py", "RemoteExperienceMaker."
    neighbours = {
        each: taken("openrlhf", "openrlhf/models/utils.py", each)
        for each in ("masked_mean", "compute_reward")
    }
    neighbours |= {"apply_length_penalties": lambda *_: None, "init_logger": MagicMock()}
    found = {}
    for advantages in (
        "gae",
        "rloo",
        "dr_grpo",
    ):  # each leaves the penalty as it is; the first two whiten no returns
        args = MagicMock()
        args.rollout.n_samples_per_prompt, args.reward.clip_range, args.algo.advantage.estimator = (
            GROUP,
            None,
            advantages,
        )
        args.algo.advantage.gamma, args.algo.advantage.lambd = 1.0, 1.0
        gae, cumulated = (
            taken("openrlhf", file, owner + each, **neighbours)
            for each in ("get_advantages_and_returns", "get_cumulative_returns")
        )
        maker = SimpleNamespace(
            strategy=SimpleNamespace(args=args),
            kl_ctl=SimpleNamespace(value=1.0),
            advantage_estimator=advantages,
            get_advantages_and_returns=lambda *given, gae=gae: gae(None, *given),
            get_cumulative_returns=lambda *given, cumulated=cumulated: cumulated(None, *given),
        )
        made = SimpleNamespace(
            rewards=torch.zeros(N),
            index=list(range(N)),
            action_mask=data.mask.long(),
            values=torch.zeros(N, T),
            info={},
            kl=penalty(data.new.detach(), data.ref, kl_estimator=estimator) * mask,
        )
        taken("openrlhf", file, owner + "compute_advantages_and_returns", **neighbours)(
            maker, [made]
        )
        found[advantages] = made.returns
    for other in found.values():
        torch.testing.assert_close(other * mask, found["gae"] * mask)
    return found["gae"]


def liger(options, data) -> Tensor:
    base = "liger_kernel/chunked_loss/fused_linear_ppo.py"
    normalizer = taken("liger-kernel", base, "LigerFusedLinearPPOBase._compute_dapo_normalizer")
    loss = taken(
        "liger-kernel",
        "liger_kernel/chunked_loss/grpo_loss.py",
        "LigerFusedLinearGRPOFunction.ppo_loss_fn",
        LigerFusedLinearPPOBase=SimpleNamespace(_compute_dapo_normalizer=normalizer),
    )
    mask = data.mask.to(F64)
    found, _ = loss(
        data.new,
        mask,
        torch.zeros(N, dtype=F64),
        mask,
        ref_per_token_logps=data.ref,
        old_per_token_logps=data.old,
        beta=1.0,
        max_completion_length=T,
        **{name: value for name, value in options.items() if name != "beta"},
    )
    return found


THEIRS = {
    "trl_grpo": trl_grpo,
    "trl_rloo": trl_rloo,
    "verl": verl,
    "verl_distillation": verl_distillation,
    "openrlhf": openrlhf,
    "liger": liger,
}
FACTORS = {"token-sum": 1.0}
"""What a sum over all tokens is multiplied with; 1 / (N * T) where nothing stands here."""
TOLERANCES = {"openrlhf": 1e-5, "verl": 1e-7, "verl_distillation": 1e-7}
"""OpenRLHF computes in float32, whatever comes; it and verl add 1e-8 to lengths."""


def every() -> Iterator[str]:
    """Each row that was checked: with each of the values that mean the same, and each average."""
    for spelling in trainers.spellings():
        found = spelling.meaning
        if not found.checked.startswith("beside"):
            continue
        given = [option.split("=") for option in spelling.options.split()]
        trainer = trainers.get(found.trainer)
        if trainer.normaliser and found.normalisation != RETURNS:
            given.append(
                [
                    trainer.normaliser,
                    "|".join(name for name, average in trainer.normalisations.items() if average),
                ]
            )
        for values in product(*(values.split("|") for _, values in given)):
            yield " ".join(
                (
                    trainer.name,
                    *(f"{name}={value}" for (name, _), value in zip(given, values, strict=True)),
                )
            )


def averaged(found, data, rollouts) -> Tensor:
    """Klbench's loss with the weight 1, averaged as the meaning says."""
    losses = surrogate(gradients.get(found.combination), rollouts)
    trainer = trainers.get(found.trainer)
    factors = {
        TOKENS: lambda: 1 / int(data.mask.sum()),
        SEQUENCES: lambda: 1 / N,
        LENGTH: lambda: 1 / N,
        CONSTANT: lambda: FACTORS.get(found.options[trainer.normaliser], 1 / (N * T)),
    }
    return losses.sum() * factors[found.normalisation]()


@pytest.mark.parametrize("inputs", ["data", "edges"])
@pytest.mark.parametrize("words", [each for each in every() if trainers.parse(each).combination])
def test_a_row_is_what_the_package_computes(words, inputs, request) -> None:
    data = request.getfixturevalue(inputs)
    found = trainers.parse(words)
    combination = gradients.get(found.combination)
    theirs = THEIRS[found.trainer](found.options, data)
    tolerance = TOLERANCES.get(found.trainer, 1e-10)
    tolerance = 1e-6 if "vectorized" in words else tolerance  # verl's sums of groups are float32
    if found.normalisation == RETURNS:
        rollouts = data.rollouts(fresh=True)
        found_returns = parts(combination, rollouts).returns
        assert found_returns is not None
        value = -centred(found_returns, GROUP, combination.baseline)
        expected, ours = (x.to(F64).where(data.mask, 0.0) for x in (theirs, value))
        gradient = torch.autograd.grad(-(expected * data.new).sum(), data.new)[0]
        own = torch.autograd.grad(surrogate(combination, rollouts, GROUP).sum(), data.new)[0]
    else:
        # A straight-through value has no weight with the trainers, who multiply only what is
        # differentiated.
        fresh = combination.placement == "straight_through"
        expected, ours = (
            theirs.detach().to(F64),
            averaged(found, data, data.rollouts(fresh=fresh)).detach(),
        )
        gradient = torch.autograd.grad(theirs, data.new)[0]
        sampled = found.note.startswith("the gradient, as long as nothing is clipped")
        own = torch.autograd.grad(averaged(found, data, data.rollouts(fresh=sampled)), data.new)[0]
    if not found.note.startswith("the gradient,"):  # which alone is the same
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(own, gradient, rtol=tolerance, atol=tolerance)
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("words", "compute"), [("trl", trl_grpo), ("liger use_bias_correction_kl=true", liger)]
)
def test_a_ratio_of_the_sequence_is_on_every_token(words, compute, data) -> None:
    """What no combination computes is what the note says."""
    found = trainers.parse(f"{words} importance_sampling_level=sequence")
    assert found.note.startswith(
        "every token's k3 times the exponential of its sequence's mean log-ratio to the policy"
        " before"
    )
    log_ratio, log_weight = data.ref - data.new, (data.new - data.old) * data.mask
    weight = (log_weight.sum(-1) / data.mask.sum(-1)).exp()[:, None]
    expected = ((log_ratio.exp() - 1 - log_ratio) * weight * data.mask).sum() / int(data.mask.sum())
    theirs = compute(found.options, data)
    torch.testing.assert_close(theirs, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(each, data.new)[0] for each in (theirs, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_ligers_luspo_counts_padding(data) -> None:
    """Where nothing should count, a reference that differs changes the loss; in TRL it does not."""
    other = Data(data.new, torch.where(data.mask, data.ref, data.ref + 1.0), data.old, data.mask)
    found = trainers.parse("liger loss_type=luspo")
    assert "padding counts as well" in found.note
    one, two = (float(liger(found.options, each).detach()) for each in (data, other))
    assert abs(one - two) > 0.01
    options = trainers.parse("trl loss_type=luspo").options
    assert float(trl_grpo(options, data).detach()) == float(trl_grpo(options, other).detach())


def test_every_trainer_with_a_package_is_run() -> None:
    assert set(THEIRS) == {each.name for each in trainers.TRAINERS if each.package}
    assert {words.split()[0] for words in every()} == set(THEIRS)


@pytest.mark.parametrize(
    "trainer", [each for each in trainers.TRAINERS if each.package], ids=lambda each: each.name
)
def test_the_version_that_was_checked_is_the_one_that_is_here(trainer) -> None:
    file = next(row.where for row in trainer.rows if row.where).partition(":")[0]
    try:
        here = module(trainer.package, file).version
    except MissingError as error:
        pytest.skip(str(error))
    assert here == trainer.checked, (
        f"{trainer.package} {here} is installed: run the rows beside it, then say so in the data"
    )
