"""Translations of KL settings.

Strengths are derived by hand, and measured by differentiating the losses of both trainers.
"""

import json
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
import torch
from json_schema import conforms

from klbench import gradients, trainers
from klbench.engine.cli import command_line
from klbench.gradients.surrogate import surrogate
from klbench.trainers import LENGTH, RETURNS, SEQUENCES, TOKENS
from klbench.translate import averages
from klbench.translate.answer import Scale, likeness, translate
from klbench.translate.likeness import MEAN, NEAR, NOTHING, OTHER, SAME, gradient
from klbench.types import Rollouts

SCHEMA = json.loads(resources.files("klbench.translate").joinpath("schema.json").read_text("utf-8"))
LOSS = "verl kl_loss_type=low_var_kl kl_loss_coef=0.001 loss_agg_mode="
USUAL = ["translate", f"{LOSS}token-mean", "--to", "trl"]
TOKENS_OF_ONE, VOCABULARY = 4, 3


def holds_to_schema(found: dict) -> bool:
    return conforms(found, SCHEMA, SCHEMA["$defs"])


def rollouts(theta: torch.Tensor, count: int) -> Rollouts:
    """Random sequences of equal length of a table policy, and a reference near it."""
    stream = torch.Generator().manual_seed(1)
    token = torch.randint(VOCABULARY, (count, TOKENS_OF_ONE), generator=stream)
    other = 0.3 * torch.randn(theta.shape, generator=stream, dtype=theta.dtype)
    places = torch.arange(TOKENS_OF_ONE).expand_as(token)
    log_q, log_p = (each.log_softmax(-1)[places, token] for each in (theta, theta.detach() + other))
    return Rollouts(
        log_q, log_p, log_q.detach(), torch.zeros_like(log_p), torch.ones_like(token) > 0
    )


def slope(meaning: trainers.Meaning, coefficient: float) -> torch.Tensor:
    """The gradient of what a trainer minimises: the policy's term and, apart, the penalty's."""
    stream = torch.Generator().manual_seed(2)
    theta = torch.randn(
        TOKENS_OF_ONE, VOCABULARY, generator=stream, dtype=torch.float64, requires_grad=True
    )
    drawn = rollouts(theta, 8)
    advantage = torch.randn(8, 1, generator=stream, dtype=torch.float64)
    policy = -advantage * drawn.log_q
    combination = gradients.get(meaning.combination)
    combination = replace(combination, name="of sums", length_mean=False)
    penalty = coefficient * surrogate(combination, drawn)
    divisors = {TOKENS: 8 * TOKENS_OF_ONE, LENGTH: 8 * TOKENS_OF_ONE, SEQUENCES: 8}
    found = [
        torch.autograd.grad(each.sum() / divisors[how], theta, retain_graph=True)[0].flatten()
        for each, how in ((policy, averages.policy(meaning)), (penalty, averages.average(meaning)))
    ]
    return torch.stack(found)


@pytest.mark.parametrize(
    ("setting", "to", "coefficient", "alone"),
    [
        # By hand: sum/(8 T) against sum/8 is 1/T of the gradient, of policy and penalty alike.
        (f"{LOSS}token-mean", "trl@1.9", 0.001, 0.001),
        (f"{LOSS}seq-mean-token-sum", "trl@1.16", 0.001, 0.001),
        (f"{LOSS}seq-mean-token-sum", "openrlhf", 0.001, 0.001 * TOKENS_OF_ONE),
        (f"{LOSS}seq-mean-token-sum", "torchforge", 0.001, 0.001 * TOKENS_OF_ONE),
        (f"{LOSS}seq-mean-token-mean", "open_instruct", 0.001, 0.001),
        ("trl loss_type=luspo beta=0.04 use_bias_correction_kl=false", "skyrl", 0.04, 0.16),
        ("trl loss_type=luspo beta=0.04", "liger", 0.04, 0.16),
        (f"{LOSS}token-mean", "skyrl", 0.001, 0.001),
        ("skyrl kl_estimator_type=k2 loss_reduction=sequence_mean", "verl", 0.001, 0.001),
        ("torchforge beta=0.1", "unsloth", 0.1, 0.1),
        ("slime kl_loss_type=k2 kl_loss_coef=0.02", "verl", 0.02, 0.02),
    ],
)
def test_equal_strength_by_hand_and_by_the_losses_themselves(
    setting: str, to: str, coefficient: float, alone: float
) -> None:
    found = translate(setting, to, Scale(TOKENS_OF_ONE))
    strength = found["equal_strength"]
    assert strength["gradient"] == SAME
    assert strength["coefficient"] == coefficient == found["options"][strength["option"]]
    assert strength["penalty_alone"]["coefficient"] == pytest.approx(alone, rel=1e-12)
    source, target = trainers.parse(setting), trainers.parse(found["to"]["setting"])
    before, after = slope(source, source.coefficient), slope(target, target.coefficient)
    # Whatever an average multiplies, policy's and penalty's gradients keep their proportion.
    scale = float(after[0] @ before[0] / (before[0] @ before[0]))
    assert torch.allclose(after, scale * before, rtol=1e-9, atol=1e-15)
    assert scale * strength["penalty_alone"]["factor"] == pytest.approx(1.0, rel=1e-9)
    kept = slope(target, strength["penalty_alone"]["coefficient"])
    assert torch.allclose(kept[1], before[1], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("setting", "to", "option", "said"),
    [
        (f"{LOSS}token-mean", "skyrl", ("loss_reduction", "token_mean"), "average of the penalty:"),
        (f"{LOSS}seq-mean-token-mean", "skyrl", ("loss_reduction", "sequence_mean"), ""),
        ("skyrl", "verl", ("loss_agg_mode", "token-mean"), "average of the penalty:"),
        ("skyrl loss_reduction=sequence_mean", "slime", ("calculate_per_token_loss", False), ""),
        ("skyrl loss_reduction=seq_mean_token_sum_norm", "verl", (), "times that constant"),
    ],
)
def test_a_penalty_may_be_averaged_otherwise_than_the_policys_term(
    setting: str, to: str, option: tuple[str, trainers.Value], said: str
) -> None:
    found = translate(setting, to)
    assert not option or option in found["options"].items()
    changes = [each for each in found["changes"] if "average" in each or "constant" in each]
    assert changes if said else not changes
    assert said in " | ".join(changes)


def test_without_a_length_or_a_known_constant_the_penalty_alone_is_not_stated() -> None:
    for text, to, scale in (
        (f"{LOSS}seq-mean-token-sum", "openrlhf", Scale()),
        (f"{LOSS}seq-mean-token-sum-norm", "openrlhf", Scale(800)),
    ):
        assert translate(text, to, scale)["equal_strength"]["penalty_alone"]["factor"] is None


@cache
def expected(name: str, distance: float) -> torch.Tensor:
    """The mean gradient over all sequences of two tokens of a policy, weighted by probability."""
    stream = torch.Generator().manual_seed(3)
    theta = torch.randn(3, 2, generator=stream, dtype=torch.float64, requires_grad=True)
    apart = distance * torch.randn(3, 2, generator=stream, dtype=torch.float64)
    token = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    node = torch.stack([torch.zeros(4, dtype=torch.long), 1 + token[:, 0]], dim=-1)
    log_q, log_p = (each.log_softmax(-1)[node, token] for each in (theta, theta.detach() + apart))
    drawn = Rollouts(log_q, log_p, log_q.detach(), torch.zeros_like(log_p), token >= 0)
    plain = replace(gradients.get(name), name="alone", baseline="none", length_mean=False)
    if plain.reference == "sampler":
        return torch.zeros(6, dtype=torch.float64)
    mean = (drawn.log_mu.sum(-1).exp() * surrogate(plain, drawn, 1)).sum()
    return torch.autograd.grad(mean, theta)[0].flatten()


SPELLINGS = tuple(each for each in trainers.spellings(averages=True) if each.meaning.combination)
ONE_EACH = tuple(
    {
        (each.trainer, each.meaning.combination.partition(":")[0]): each for each in SPELLINGS
    }.values()
)


def test_what_is_called_alike_is_so_over_all_sequences() -> None:
    names = {each.meaning.combination for each in ONE_EACH} - {trainers.NONE}
    seen = set()
    for a in names:
        for b in names:
            alike = gradient(a).likeness(gradient(b))
            seen.add(alike)
            mine, theirs = expected(a, 1.0), expected(b, 1.0)
            equal = torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
            if alike in (SAME, MEAN):
                assert equal, (a, b)
            elif alike == NOTHING:
                assert min(mine.abs().max(), theirs.abs().max()) < 1e-12, (a, b)
            else:
                assert not equal, (a, b, alike)
            if alike == NEAR:
                mine, theirs = expected(a, 1e-5), expected(b, 1e-5)
                assert (mine - theirs).norm() < 1e-4 * max(mine.norm(), 1e-6), (a, b)
    assert {SAME, MEAN, NEAR, NOTHING, OTHER} <= seen


def test_every_trainer_to_every_other_and_back() -> None:
    back = 0
    rollout = [each for each in ONE_EACH if each.meaning.trainer.endswith("_rollout")]
    for each in [each for each in ONE_EACH if each not in rollout] + rollout[::12]:
        for name in trainers.names():
            found = translate(each.words, name, Scale(100, 0.01))
            assert holds_to_schema(found), (each.words, name)
            target = trainers.parse(found["to"]["setting"])
            assert target.combination == found["to"]["combination"]
            assert target.coefficient == found["equal_strength"]["coefficient"]
            clamped = target.clamp != each.meaning.clamp
            if found["lost"] or clamped or found["equal_strength"]["gradient"] != SAME:
                continue
            source = f"{each.meaning.trainer}@{each.meaning.version}"
            again = trainers.parse(translate(found["to"]["setting"], source)["to"]["setting"])
            for field in ("combination", "normalisation", "clamp", "coefficient"):
                assert getattr(again, field) == getattr(each.meaning, field), (each.words, name)
            back += 1
    assert back > 200


def test_a_setting_into_its_own_trainer_is_itself() -> None:
    for each in ONE_EACH:
        if likeness(each.meaning, each.meaning) == SAME:
            meaning = each.meaning
            found = translate(each.words, meaning.trainer)
            assert found["lost"] == []
            assert trainers.parse(found["to"]["setting"]).combination == meaning.combination


@pytest.mark.parametrize(
    ("setting", "to", "options", "lost", "changed"),
    [
        (
            f"{LOSS}token-mean",
            "trl",
            {"beta": 0.001, "use_bias_correction_kl": False, "loss_type": "dapo"},
            ["clamp: log-ratio to +-20, value to +-10"],
            "",
        ),
        (
            "trl beta=0.01",
            "verl",
            {"kl_loss_type": "low_var_kl+", "kl_loss_coef": 0.01},
            ["weight: token_ratio:differentiated"],
            "the same while the policy itself samples",
        ),
        (
            "verl use_kl_in_reward=true kl_coef=0.01",
            "trl",
            {"beta": 0.01, "use_bias_correction_kl": True},
            ["place: in the reward", "the gradient of k1_reward_to_go"],
            "divide the coefficient by that spread",
        ),
        (
            "trl_rloo",
            "openrlhf",
            {"use_loss": False, "kl.estimator": "k1", "init_coef": 0.05},
            ["baseline: leave_one_out"],
            "clamp: value to +-10",
        ),
        ("verl kl_loss_type=k1", "trl", {"beta": 0}, ["the noise of"], "no penalty"),
        ("prime_rl", "verl", {"use_kl_loss": False}, ["the pull to the sampler"], "no penalty"),
        ("verl use_kl_loss=true", "prime_rl", {"kl_tau": 0}, ["the penalty:"], "no penalty"),
        ("verl", "skyrl", {"use_kl_loss": False, "use_kl_in_reward": False}, [], ""),
        (
            f"{LOSS}seq-mean-token-sum",
            "torchforge",
            {"beta": 0.001},
            ["clamp:", "average: mean over sequences of sums"],
            "the policy's term too",
        ),
        (
            "verl use_kl_in_reward=true",
            "tinker",
            {"kl_discount_factor": 1, "kl_penalty_coef": 0.001},
            [],
            "weight: token_ratio",
        ),
    ],
)
def test_what_is_lost_and_what_changes(
    setting: str, to: str, options: dict, lost: list[str], changed: str
) -> None:
    found = translate(setting, to)
    assert options.items() <= found["options"].items()
    said = " | ".join(found["lost"])
    assert all(each in said for each in lost)
    assert bool(lost) == bool(found["lost"])
    assert changed in " | ".join(found["changes"])


def test_a_version_can_be_named() -> None:
    before, after = (translate("unsloth beta=0.04", f"trl@{each}") for each in ("1.9", "1.16"))
    assert before["to"]["version"] == "1.9"
    assert before["options"] == after["options"]
    assert before["options"]["use_bias_correction_kl"] is False


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "translation.json"
    numbers = ["--length", "800", "--kl-token", "0.01", "--json", str(file)]
    assert command_line([*USUAL, *numbers]) == 0
    said, found = capsys.readouterr().out, json.loads(file.read_text("utf-8"))
    assert holds_to_schema(found)
    assert found["to"]["setting"] in said
    assert found["lost"][0] in said
    assert found["equal_strength"]["reward_paid"] == pytest.approx(0.001 * 800 * 0.01)
    assert found["from"]["average"] != RETURNS
    assert command_line(["translate", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"--{each}" in said for each in ("to", "length", "kl-token", "json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verll", "--to", "trl"], "did you mean 'verl'"),
        (["verl", "--to", "tlr"], "unknown trainer 'tlr'"),
        (["verl", "--to", "trl@0.1"], "expected a version from 1.9 to 1.16"),
        (["verl@99", "--to", "trl"], "expected a version from 0.6"),
        (["verl kl_los_type=k1", "--to", "trl"], "did you mean 'kl_loss_type'"),
        (["verl kl_loss_type=k9", "--to", "trl"], "kl_loss_type"),
        (["verl kl_loss_coef=much", "--to", "trl"], "is a number"),
        (["verl use_kl_loss=true use_kl_in_reward=true", "--to", "trl"], "two penalties"),
        (["", "--to", "trl"], "expected TRAINER"),
        (["verl 'k1", "--to", "trl"], "expected TRAINER"),
        (["verl"], "--to"),
        ([*USUAL[1:], "--length", "0"], "--length 0: expected a whole number above 0"),
        ([*USUAL[1:], "--length", "2.5"], "--length 2.5"),
        ([*USUAL[1:], "--length", "1e30"], "1e+09 at most"),
        ([*USUAL[1:], "--json", __file__], "did not write it"),
        (["trl beta=nan", "--to", "verl"], "coefficient nan: expected a number from 0"),
        (["trl beta=1e400", "--to", "verl"], "coefficient inf"),
        (["trl beta=-1", "--to", "verl"], "coefficient -1"),
        ([*USUAL[1:], "--kl-token", "nan"], "--kl-token nan: expected a number above 0"),
        ([*USUAL[1:], "--json", "/no/such/folder/x.json"], "/no/such/folder/x.json"),
        ([*USUAL[1:], "--colour", "red"], "--colour"),
    ],
)
def test_what_cannot_be_translated_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command_line(["translate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("klbench: ")
    assert said in err
