"""The loop's losses as TRL, verl and OpenRLHF have them.

By their own functions where installed, and written out from them.
"""

import inspect
import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from experiments import configured

from klbench.rlhf.losses import whitened
from klbench.rlhf.penalty import arm
from klbench.rlhf.ppo import PpoBatch, Recipe, train
from klbench.trainers.installed import MissingError, function, module
from klbench.types import Rollouts

F64 = torch.float64
BETA, GROUP, N, T = 0.3, 3, 6, 5


@pytest.fixture
def data() -> SimpleNamespace:
    """Two prompts; policies far enough apart for every clip to be active, values too."""
    generator = torch.Generator().manual_seed(7)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(N, T, dtype=F64, generator=generator)

    lengths = torch.tensor([5, 2, 4, 1, 3, 5])
    mask = torch.arange(T) < lengths[:, None]
    old = -2.0 + normal(0.5)
    value = normal(0.7)
    return SimpleNamespace(
        mask=mask,
        old=old * mask,
        new=((old + normal(0.9)) * mask).requires_grad_(),
        ref=(old + normal(0.3)) * mask,
        value=value * mask,
        new_value=((value + normal(0.8)) * mask).requires_grad_(),
        reward=torch.randn(N, dtype=F64, generator=generator),
    )


class Fixed:
    """Samples and scores once as the old policy and critic, then as the new ones.

    Keeps the losses it is given.
    """

    def __init__(self, data: SimpleNamespace) -> None:
        self.data, self.losses = data, []

    def sample(self, update, lag):
        return PpoBatch(self.data.reward[None, None], self.data.mask[None, None], None)

    def rollouts(self, batch):
        log_q = self.data.new if self.losses else self.data.old.clone().requires_grad_()
        stack = (log_q, self.data.ref, self.data.old, torch.zeros(N, T, dtype=F64), self.data.mask)
        return Rollouts(*(each[None, None] for each in stack))

    def values(self, batch):
        return (self.data.new_value if self.losses else self.data.value)[None, None]

    def order(self, update, epoch, n):
        return torch.arange(n)

    def step(self, loss, update):
        self.losses.append(loss[0, 0])


def ours(data, algorithm, combination):
    """The loss of a second epoch, and its gradients in log-probabilities and values."""
    options = configured(
        "ppo",
        algorithm=algorithm,
        combinations=("k1_reward",),
        frontier=(),
        updates=1,
        group=GROUP,
        epochs=2,
    )
    recipe = Recipe(
        **{
            name: getattr(options, name)
            for name in Recipe.__dataclass_fields__
            if hasattr(options, name)
        }
    )
    world = Fixed(data)
    list(train(world, [arm(combination, BETA)], recipe))
    return with_gradients(world.losses[1], data)


def with_gradients(loss, data):
    found = torch.autograd.grad(loss, (data.new, data.new_value), allow_unused=True)
    return loss.detach(), *(
        torch.zeros(N, T, dtype=F64) if each is None else each for each in found
    )


def same(found, expected, tolerance=1e-7) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert float(expected[1].abs().max()) > 0.01


def written_gae(rewards, values, mask, gamma=1.0, trace=1.0):
    """With a trace and a discount of 1 the advantage is the sum of the rewards to come, less the
    value.
    """
    assert (gamma, trace) == (1.0, 1.0)
    rewards = torch.where(mask.bool(), rewards, 0.0)
    returns = torch.stack([rewards[:, t:].sum(-1) for t in range(T)], dim=-1)
    return torch.where(mask.bool(), returns - values, 0.0), returns


def written_surrogate(old, new, advantage, mask, dual=None):
    """Token by token, with Python's own min and max."""
    total = 0.0
    for i, t in mask.bool().nonzero().tolist():
        ratio, gain = (new[i, t] - old[i, t]).clamp(-20.0, 20.0).exp(), advantage[i, t]
        term = min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        if dual is not None and gain < 0:
            term = max(term, dual * gain)
        total = total - term
    return total / mask.sum()


def written_value_loss(new, returns, old, mask, clip=0.5):
    kept = old + (new - old).clamp(-clip, clip)
    return (
        0.5 * (torch.maximum((new - returns) ** 2, (kept - returns) ** 2) * mask).sum() / mask.sum()
    )


def token_rewards(data, penalised=True):
    """The reward at the last token, and k1's penalty at every one, by the policy that sampled."""
    last = torch.nn.functional.one_hot(data.mask.sum(-1) - 1, T)
    return last * data.reward[:, None] - (
        BETA * (data.old - data.ref) * data.mask if penalised else 0.0
    )


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


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(
    ("combination", "corrected"), [("k3_loss", False), ("k3_ratio_loss", True)]
)
def test_trl_grpo(data, installed, combination, corrected) -> None:
    grouped = data.reward.view(-1, GROUP)
    advantage = (
        (grouped - grouped.mean(-1, keepdim=True)) / (grouped.std(-1, keepdim=True) + 1e-4)
    ).flatten()
    if installed:
        compute = taken(
            "trl",
            "trl/trainer/grpo_trainer.py",
            "GRPOTrainer._compute_loss",
            nanmin=torch.min,
            nanmax=torch.max,
        )
        trainer = MagicMock(
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level="token",
            beta=BETA,
            loss_type="dapo",
            epsilon_low=0.2,
            epsilon_high=0.2,
            use_vllm=False,
            aux_loss_enabled=False,
            _entropy_bonus_enabled=False,
            args=MagicMock(use_bias_correction_kl=corrected, delta=None),
        )
        trainer.model.training = False
        trainer.accelerator.num_processes = 1
        trainer.accelerator.gather.side_effect = (
            trainer.accelerator.gather_for_metrics.side_effect
        ) = lambda x: x
        trainer._get_per_token_logps_and_entropies.return_value = (
            data.new,
            torch.ones_like(data.new),
            None,
        )
        ids = torch.zeros(N, T, dtype=torch.long)
        expected = compute(
            trainer,
            None,
            {
                "prompt_ids": ids[:, :1],
                "prompt_mask": torch.ones(N, 1),
                "completion_ids": ids,
                "advantages": advantage,
                "completion_mask": data.mask.long(),
                "old_per_token_logps": data.old,
                "ref_per_token_logps": data.ref,
                "num_items_in_batch": data.mask.sum(),
            },
        )
    else:
        d = data.ref - data.new
        k3 = (d.exp() - 1 - d) * ((data.new - data.old).exp() if corrected else 1.0)
        expected = written_surrogate(
            data.old, data.new, advantage[:, None].expand(-1, T), data.mask
        )
        expected = expected + BETA * (k3 * data.mask).sum() / data.mask.sum()
    same(ours(data, "trl_grpo", combination), with_gradients(expected, data))


def verl(name):
    file = "verl/utils/torch_functional.py"
    neighbours = ("masked_whiten", "masked_mean", "masked_sum", "clip_by_value")
    functional = SimpleNamespace(**{each: taken("verl", file, each) for each in neighbours})
    other = type("Other", (), {})
    return taken(
        "verl",
        "verl/trainer/ppo/core_algos.py",
        name,
        verl_F=functional,
        AlgoConfig=other,
        ActorConfig=other,
    )


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("combination", ["k1_reward_to_go", "none", "k2_loss"])
def test_verl_ppo(data, installed, combination) -> None:
    rewards = token_rewards(data, combination == "k1_reward_to_go")
    if installed:
        config = MagicMock(
            clip_ratio=0.2, clip_ratio_low=None, clip_ratio_high=None, global_batch_info={}
        )
        config.get = lambda key, default: default
        mask = data.mask.to(F64)
        advantage, returns = verl("compute_gae_advantage_return")(
            rewards, data.value, mask, 1.0, 1.0
        )
        policy, _ = verl("compute_policy_loss_vanilla")(
            data.old, data.new, advantage, mask, "token-mean", config
        )
        value, _ = verl("compute_value_loss")(data.new_value, returns, data.value, mask, 0.5)
    else:
        plain, returns = written_gae(rewards, data.value, data.mask)
        chosen = plain[data.mask]
        advantage = (plain - chosen.mean()) / (chosen.var() + 1e-8).sqrt()
        policy = written_surrogate(data.old, data.new, advantage, data.mask, dual=3.0)
        value = written_value_loss(data.new_value, returns, data.value, data.mask)
        dual = (data.new - data.old).exp() > 3.0
        assert bool((dual & (advantage < 0) & data.mask).any())
    if combination == "k2_loss":  # kl_loss_type=mse
        policy = (
            policy + BETA * (0.5 * (data.new - data.ref) ** 2 * data.mask).sum() / data.mask.sum()
        )
    same(ours(data, "verl_ppo", combination), with_gradients(policy + 0.5 * value, data))


def openrlhf(file, name):
    neighbours = {
        each: taken("openrlhf", "openrlhf/models/utils.py", each)
        for each in ("masked_mean", "compute_reward")
    }
    neighbours |= {"apply_length_penalties": lambda *_: None, "init_logger": MagicMock()}
    return taken("openrlhf", f"openrlhf/{file}.py", name, **neighbours)


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("combination", ["k1_reward_to_go", "none"])
def test_openrlhf_ppo(data, installed, combination) -> None:
    penalised = combination == "k1_reward_to_go"
    if installed:
        maker = "trainer/ppo_utils/experience_maker"
        gae = openrlhf(maker, "RemoteExperienceMaker.get_advantages_and_returns")
        args = MagicMock()
        args.rollout.n_samples_per_prompt, args.reward.clip_range, args.algo.advantage.estimator = (
            1,
            None,
            "gae",
        )
        args.algo.advantage.gamma, args.algo.advantage.lambd, args.algo.advantage.no_std_norm = (
            1.0,
            1.0,
            False,
        )
        owner = SimpleNamespace(
            strategy=SimpleNamespace(args=args),
            kl_ctl=SimpleNamespace(value=BETA if penalised else 0.0),
            advantage_estimator="gae",
            get_advantages_and_returns=lambda *given: gae(None, *given),
        )
        mask = data.mask.long()
        kl = (data.old - data.ref) * data.mask
        made = SimpleNamespace(
            rewards=data.reward,
            index=list(range(N)),
            kl=kl,
            action_mask=mask,
            values=data.value,
            info={},
        )
        openrlhf(maker, "RemoteExperienceMaker.compute_advantages_and_returns")(owner, [made])
        losses = "models/loss"
        own = SimpleNamespace(
            policy_loss_type="ppo",
            clip_eps_low=0.2,
            clip_eps_high=0.2,
            dual_clip=None,
            is_correction_level="off",
            token_level_loss=True,
            clip_eps=0.5,
        )
        policy, *_ = openrlhf(losses, "PolicyLoss.forward")(
            own, data.new, data.old, made.advantages, action_mask=mask
        )
        value = openrlhf(losses, "ValueLoss.forward")(
            own, data.new_value, data.value, made.returns, action_mask=mask
        )
        defaults = inspect.signature(openrlhf(losses, "PolicyLoss.__init__")).parameters
        assert (defaults["dual_clip"].default, defaults["token_level_loss"].default) == (None, True)
    else:
        plain, returns = written_gae(token_rewards(data, penalised), data.value, data.mask)
        chosen = plain[data.mask]
        advantage = (plain - chosen.mean()) / math.sqrt(float(chosen.var(correction=0)))
        policy = written_surrogate(data.old, data.new, advantage, data.mask)
        value = written_value_loss(data.new_value, returns, data.value, data.mask)
    # It normalises advantages in float32.
    same(ours(data, "openrlhf_ppo", combination), with_gradients(policy + 0.5 * value, data), 1e-6)


def test_spreads_of_nothing_divide_by_what_each_trainer_adds() -> None:
    """Equal rewards, and a mean that is not quite theirs: 1e-6 over the spread 0."""
    advantage, mask = torch.full((4, 1), 1e-6, dtype=F64), torch.ones(4, 1, dtype=torch.bool)
    assert torch.allclose(
        whitened(advantage, mask, 2, "group"), torch.full((4, 1), 1e-6 / 1e-8, dtype=F64)
    )
    assert torch.allclose(
        whitened(advantage, mask, 2, "group_trl"), torch.full((4, 1), 1e-6 / 1e-4, dtype=F64)
    )
    tiny = torch.tensor([[1e-6], [-1e-6], [1e-6], [-1e-6]], dtype=F64)
    for whitening, unit in (
        ("batch", math.sqrt(4e-12 / 3) + 1e-8),
        ("batch_verl", math.sqrt(4e-12 / 3 + 1e-8)),
        ("batch_openrlhf", 1e-4),
    ):
        assert torch.allclose(whitened(tiny, mask, 2, whitening), tiny / unit, rtol=1e-12)
