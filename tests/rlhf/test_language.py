"""A language model in the loop, against gradients that are enumerated or written out by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from small_lm import END, PAD, V, judge, log_softmax, model

from klbench import gradients
from klbench.rlhf.language import sft
from klbench.rlhf.language.descent import Descent
from klbench.rlhf.language.ppo_world import Language, Setting
from klbench.rlhf.language.sft import Examples
from klbench.rlhf.penalty import arm, in_loss
from klbench.rlhf.ppo import Recipe, train
from klbench.types import Rollouts

BETA = 0.3


def world(
    prompts=((1, 2),),
    *,
    tokens=2,
    each=1,
    group=4,
    critic=False,
    dtype=torch.float64,
    seed=0,
    batch=64,
) -> Language:
    setting = Setting(
        each, group, tokens, rate=0.01, clip=None, steps=None, critic=critic, batch=batch
    )
    return Language(model(1, dtype), model(2, dtype), prompts, judge, setting, (seed, "test"))


def completions(most: int):
    """All of them: they end with END or are cut off."""
    ordinary = [t for t in range(V) if t != END]
    for length in range(1, most + 1):
        for first in itertools.product(ordinary, repeat=length - 1):
            for last in range(V) if length == most else (END,):
                yield (*first, last)


def by_hand(name, policy, reference, prompt, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """``log q`` of a completion, and a value whose gradient is that of its loss, written out."""
    at = torch.arange(len(tokens)), torch.tensor(tokens)
    ours, theirs = log_softmax(policy, prompt, tokens), log_softmax(reference, prompt, tokens)
    log_q, log_p = ours[at], theirs[at]
    log_r = log_p - log_q
    reward = float(np.mean(tokens)) / V
    direct = {
        "k1_reward": lambda: 0.0 * log_q.sum(),
        "k1_reward_to_go": lambda: 0.0 * log_q.sum(),
        "none": lambda: 0.0 * log_q.sum(),
        "k1_loss": lambda: -log_r.sum(),
        "k2_loss": lambda: (log_r**2 / 2).sum(),
        "k3_loss": lambda: (log_r.exp() - 1 - log_r).sum(),
        "k3_sequence_loss": lambda: log_r.sum().exp() - 1 - log_r.sum(),
        "full_loss": lambda: (ours.exp() * (ours - theirs)).sum(),
    }[name]()
    future = {
        "k1_reward": -log_r.detach().sum(),
        "k1_reward_to_go": -log_r.detach().flip(0).cumsum(0).flip(0),
    }.get(name, 0.0)
    return log_q.sum(), -((reward - BETA * future) * log_q).sum() + BETA * direct


def flat(grads) -> torch.Tensor:
    return torch.cat([g.flatten() for g in grads])


def gradients_of(learner: Language, name: str, recipe: Recipe, updates: int = 1) -> torch.Tensor:
    """The gradient of the loop's first steps, from a policy that stays where it is."""
    found = []
    parameters = list(learner.policy.model.parameters())

    def look(loss, update):
        found.append(flat(torch.autograd.grad(loss.sum(), parameters)))

    learner.step = look
    list(train(learner, [arm(name, BETA)], dataclasses.replace(recipe, updates=updates, epochs=1)))
    return torch.stack(found)


PLAIN = Recipe(clip=None, baseline="none", group=4)
NAMES = (
    "k1_reward",
    "k1_reward_to_go",
    "k1_loss",
    "k2_loss",
    "k3_loss",
    "k3_sequence_loss",
    "full_loss",
    "none",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_loops_gradient_is_the_one_written_out(name) -> None:
    learner = world(((1, 2), (4,), (5, 6, 1)), tokens=4, each=3)
    batch = learner.sample(0, 0).inputs
    assert not batch.mask.all()  # some ended
    parameters = list(learner.policy.model.parameters())
    losses = [
        by_hand(name, learner.policy, learner.reference, learner.prompts[i], token[keep].tolist())[
            1
        ]
        for i, token, keep in zip(batch.prompt, batch.token, batch.mask, strict=True)
    ]
    expected = flat(torch.autograd.grad(sum(losses) / len(losses), parameters))
    (found,) = gradients_of(learner, name, PLAIN)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_parts_of_a_batch_add_up_to_it(minibatches) -> None:
    learner = world(((1, 2), (4,)), tokens=4, each=6)
    whole = gradients_of(learner, "k3_loss", PLAIN).mean(0)
    parts = gradients_of(learner, "k3_loss", dataclasses.replace(PLAIN, minibatches=minibatches))
    assert len(parts) == minibatches
    assert torch.allclose(parts.mean(0), whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["k1_reward", "k3_loss", "k3_sequence_loss", "none"])
def test_the_mean_gradient_is_the_enumerated_one(name) -> None:
    batches, prompt = 24, (1, 2)
    learner = world((prompt,), group=500, batch=500)
    parameters = list(learner.policy.model.parameters())
    total = torch.zeros((), dtype=torch.float64)
    probability = 0.0
    for tokens in completions(2):
        log_q, loss = by_hand(name, learner.policy, learner.reference, prompt, tokens)
        probability += float(log_q.detach().exp())
        total = total + log_q.detach().exp() * loss
    assert probability == pytest.approx(1.0, abs=1e-12)
    exact = flat(torch.autograd.grad(total, parameters))
    found = gradients_of(learner, name, dataclasses.replace(PLAIN, group=500), batches)
    directions = torch.from_numpy(np.random.default_rng(0).normal(size=(len(exact), 12)))
    sampled, truth = found @ directions, exact @ directions
    z = (sampled.mean(0) - truth) / (sampled.std(0) / math.sqrt(batches))
    assert float(z.abs().max()) < 5
    # A gradient that is not this one is told apart.
    wrong = (sampled.mean(0) + 0.3 * truth) / (sampled.std(0) / math.sqrt(batches))
    assert float(wrong.abs().max()) > 5


def test_the_expected_gradients_are_those_of_the_divergences() -> None:
    """What the enumeration above is worth.

    k1 in the reward follows KL(q‖p), k3 of the sequence in the loss KL(p‖q).
    """
    policy, reference = world().policy, model(2)
    every = list(completions(2))
    log_q = torch.stack([by_hand("none", policy, reference, (1, 2), each)[0] for each in every])
    log_p = torch.stack([by_hand("none", reference, reference, (1, 2), each)[0] for each in every])
    reward = torch.tensor([float(np.mean(each)) / V for each in every], dtype=torch.float64)
    parameters = list(policy.model.parameters())
    divergence = {
        "k1_reward": (log_q.exp() * (log_q - log_p)).sum(),
        "k3_sequence_loss": (log_p.exp() * (log_p - log_q)).sum(),
    }
    for name, each in divergence.items():
        objective = BETA * each - (log_q.exp() * reward).sum()
        exact = flat(torch.autograd.grad(objective, parameters, retain_graph=True))
        parts = [by_hand(name, policy, reference, (1, 2), tokens) for tokens in every]
        total = sum(q.detach().exp() * loss for q, loss in parts)
        assert torch.allclose(
            flat(torch.autograd.grad(total, parameters)), exact, rtol=1e-8, atol=1e-10
        )


def test_what_counts_and_what_it_is_worth() -> None:
    learner = world(((1, 2), (4,), (5, 6, 1)), tokens=5, each=3, group=8)
    batch = learner.sample(0, 0)
    rollouts = learner.rollouts(batch)
    done = batch.inputs
    assert [tuple(learner.prompts[i]) for i in done.prompt[::8]] != [
        (1, 2),
        (4,),
        (5, 6, 1),
    ]  # in an order of the stream's
    for i in range(24):
        tokens = done.token[i][done.mask[i]].tolist()
        assert END not in tokens[:-1]
        assert tokens[-1] == END or len(tokens) == 5
        prompt = learner.prompts[done.prompt[i]]
        ours, theirs = (
            log_softmax(lm, prompt, tokens) for lm in (learner.policy, learner.reference)
        )
        at = torch.arange(len(tokens)), torch.tensor(tokens)
        n = len(tokens)
        for name, expected in (
            ("log_q", ours[at]),
            ("log_mu", ours[at]),
            ("log_p", theirs[at]),
            ("kl", (ours.exp() * (ours - theirs)).sum(-1)),
        ):
            found = getattr(rollouts, name)[0, 0, i]
            assert torch.allclose(found[:n], expected, atol=1e-12), name
            assert bool((found[n:] == 0).all()), name
    assert torch.equal(batch.reward[0, 0], torch.from_numpy(judge(None, done.token, done.mask)))
    # The sampler's log-probabilities are those of the policy that sampled, whatever becomes of it.
    with torch.no_grad():
        next(learner.policy.model.parameters()).mul_(0.5)
    later = learner.rollouts(batch.take(torch.tensor([3, 20])))
    assert torch.equal(later.log_mu[0, 0], rollouts.log_mu[0, 0, [3, 20]].detach())
    assert not torch.allclose(later.log_q, later.log_mu)


def test_batches_do_not_depend_on_the_combination_or_on_how_many_are_generated_at_once() -> None:
    first, second = (world(tokens=5, group=8, batch=batch).sample(3, 0).inputs for batch in (64, 3))
    assert np.array_equal(first.token, second.token)
    assert not np.array_equal(first.token, world(tokens=5, group=8).sample(4, 0).inputs.token)


def test_a_critic_says_a_number_before_each_token_and_learns() -> None:
    learner = world(((1, 2), (4,)), tokens=4, each=2, critic=True, dtype=torch.float32)
    batch = learner.sample(0, 0)
    assert bool((learner.values(batch) == 0).all())
    with torch.no_grad():
        learner.critic.model.score.weight.copy_(torch.linspace(-1, 1, 8)[None])
    values = learner.values(batch)[0, 0]
    done = batch.inputs
    for i in range(8):
        n = int(done.mask[i].sum())
        prompt = learner.prompts[done.prompt[i]]
        ids = torch.tensor([[*prompt, *done.token[i][: n - 1].tolist()]])
        hidden = learner.critic.model.transformer(input_ids=ids).last_hidden_state[
            0, len(prompt) - 1 :
        ]
        expected = (hidden @ learner.critic.model.score.weight[0]).double()
        assert torch.allclose(values[i, :n], expected, atol=1e-5)
        assert bool((values[i, n:] == 0).all())
    before = {name: each.detach().clone() for name, each in learner.named_parameters().items()}
    list(
        train(
            learner,
            [arm("k1_reward", BETA)],
            Recipe(updates=2, group=4, critic=True, minibatches=2),
        )
    )
    moved = {
        name.split(".")[0]
        for name, each in learner.named_parameters().items()
        if not torch.equal(each, before[name])
    }
    assert moved == {"policy", "critic"}


def test_beta_follows_the_estimate_whether_or_not_the_first_pass_is_the_steps_own() -> None:
    for minibatches in (1, 2):
        learner = world(((1, 2), (4,)), tokens=4, each=2, dtype=torch.float32)
        recipe = Recipe(updates=3, group=4, minibatches=minibatches, target_kl=0.5, every=1)
        reports = list(train(learner, [arm("k1_reward", BETA)], recipe))
        for before, after in itertools.pairwise(reports):
            error = min(0.2, max(-0.2, float(before.kl_estimate) / 0.5 - 1.0))
            assert float(after.beta) == pytest.approx(
                float(before.beta) * (1.0 + 0.1 * error), rel=1e-9
            )


def test_training_raises_the_reward_and_a_penalty_holds_it() -> None:
    found = {}
    for name in ("k1_reward", "none"):
        learner = world(((1, 2), (4,)), tokens=4, each=4, group=8, dtype=torch.float32)
        reports = list(train(learner, [arm(name, BETA)], Recipe(updates=25, group=8, every=25)))
        found[name] = float(learner.latest[1].kl.sum(-1).mean())
        assert float(reports[1].sampled_reward) > float(reports[0].sampled_reward) + 0.05
    assert found["k1_reward"] < 0.5 * found["none"]


def test_a_descent_is_torchs_and_stops_where_numbers_fail() -> None:
    start = torch.tensor([1.0, -2.0, 0.5])
    mine, theirs = (start.clone().requires_grad_() for _ in range(2))
    descent = Descent([mine], 0.1, 0.5, 4)
    adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for step in range(3):
        descent.step((mine**2).sum(), step)
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / 4)
        adam.zero_grad()
        (theirs**2).sum().backward()
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        adam.step()
    assert torch.equal(mine, theirs)
    descent.step((mine * math.inf).sum(), 7)
    assert descent.cause == (7, "the loss is nan")
    descent.step((mine**2).sum(), 8)
    assert torch.equal(mine, theirs)
    other = Descent([mine], 0.1, None, None)
    mine.data[0] = 0.0
    other.step(mine.abs().sqrt().sum(), 2)  # finite, with an infinite slope at 0
    assert other.cause is not None
    assert other.cause[1].startswith("the gradient's norm is")


def test_bfloat16_layers_start_at_the_reference_and_keep_float32_parameters() -> None:
    setting = Setting(2, 4, 4, rate=0.01, clip=None, steps=None, dtype="bfloat16")
    start = model(1, torch.float32)
    learner = Language(start, start, ((1, 2), (4,)), judge, setting, (0, "test"))
    rollouts = learner.rollouts(learner.sample(0, 0))
    assert float(rollouts.kl.detach().abs().max()) == 0.0
    assert torch.equal(rollouts.log_q, rollouts.log_p)
    list(train(learner, [arm("k1_reward", BETA)], Recipe(updates=2, group=4)))
    assert {each.dtype for each in learner.named_parameters().values()} == {torch.float32}
    assert learner.descent.cause is None
    assert float(learner.latest[1].kl.max()) > 0.0


def test_fine_tuning_learns_completions_and_their_end_and_no_prompt() -> None:
    prompts, answers = [(1, 2), (4,), (5, 6, 1)], [[4, END], [6, 6, 2, END], [END]]
    token, mask = sft.padded(answers, PAD)
    examples, start = Examples(prompts, token, mask), model(1)
    pairs = zip(prompts, answers, strict=True)
    by_hand = sum(log_softmax(start, *pair)[range(len(pair[1])), pair[1]].sum() for pair in pairs)
    learned, losses = sft.train(start, examples, steps=40, rate=0.03, seed=0, dtype="float32")
    assert losses[0] == pytest.approx(-float(by_hand) / 7, rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    assert not any(each.requires_grad for each in learned.model.parameters())
    again, _ = sft.train(start, examples, steps=40, rate=0.03, seed=0, dtype="float32")
    pairs = zip(learned.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_policy_that_is_its_reference_has_a_ratio_of_one_to_the_bit(n) -> None:
    start = model(1, torch.float32)
    setting = Setting(n, 1, 4, rate=0.02, clip=None, steps=None, batch=3)
    world = Language(start, start, [(1, 2), (4,), (5, 6, 1)], judge, setting, (0, "test"))
    for update in range(6):
        rollouts = world.rollouts(world.sample(update, 0))
        assert torch.equal(rollouts.log_q.detach(), rollouts.log_p)
        assert float(rollouts.kl.detach().abs().max()) == 0.0
    assert not any(each.requires_grad for each in start.model.parameters())


@pytest.mark.parametrize("name", [*gradients.names(), "full_loss", "k1_reward", "none"])
def test_only_arms_that_are_exact_look_at_the_exact_divergence(name) -> None:
    used, unseen = arm(name, BETA), torch.full((1, 1, 4, 3), torch.nan, dtype=torch.float64)
    log_q = torch.linspace(-3.0, -0.5, 12, dtype=torch.float64).view(unseen.shape)
    mask = torch.ones_like(unseen, dtype=torch.bool)
    terms = in_loss([used], Rollouts(log_q, log_q.flip(-1), log_q - 0.1, unseen, mask))
    looks = not bool(terms.direct.isfinite().all() and terms.weights.isfinite().all())
    assert not looks or used.exact
    if used.name == "full_loss":
        assert looks


@pytest.mark.parametrize("minibatches", [1, 2])
def test_later_passes_train_alike_without_the_reference(minibatches, monkeypatch) -> None:
    asked: list[int] = []
    found = []
    for exact in (True, False):
        learner = world(((1, 2), (4, 1)), each=2, tokens=3)
        learner.setting = dataclasses.replace(learner.setting, exact=exact)
        inner = learner.reference.model.forward
        monkeypatch.setattr(
            learner.reference.model,
            "forward",
            lambda *a, inner=inner, **k: asked.append(1) or inner(*a, **k),
        )
        recipe = Recipe(updates=2, epochs=3, minibatches=minibatches, group=4)
        list(train(learner, [arm("k2_loss", BETA)], recipe))
        found.append((len(asked), flat(learner.named_parameters().values())))
        asked.clear()
    (often, one), (seldom, other) = found
    assert seldom == 3  # once an update, and for the last report
    assert often == 3 + 2 * (2 if minibatches == 1 else 6)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
