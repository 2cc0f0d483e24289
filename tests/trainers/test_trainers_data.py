"""What the data of trainers holds together, and what is said of wrong names."""

import re
from collections.abc import Iterator
from itertools import product

import pytest

from klbench import gradients, trainers
from klbench.trainers import NONE, TRAINERS
from klbench.trainers._combinations import LENGTH_MEANS, length_mean
from klbench.types import ConfigError

SPELLINGS = list(trainers.spellings(averages=True))
UNSPELLED = {"tinker_cookbook": 1, "tinker_distillation": 1}
"""Rows of newest versions that hold for a number that is not its default, and are no choice
among words.
"""


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda each: each.words)
def test_what_a_row_names_is_a_combination(spelling) -> None:
    found = spelling.meaning
    assert trainers.parse(spelling.words) == found
    if found.combination in ("", NONE):
        assert found.named in ("", NONE)
        assert not found.normalisation
        assert found.note or found.combination == NONE
        return
    combination = gradients.get(found.combination)
    assert ("mean over sequences of means" in found.normalisation) == combination.length_mean
    assert (found.normalisation == "part of the return") <= (
        combination.placement != "straight_through"
    )
    assert found.where
    if not found.named:
        return
    # The named one differs by the clamp, and, where the score or the ratio is left to it, by who
    # samples.
    named = gradients.get(found.named)
    assert named.name == found.named
    unclamped = {"k1_openrlhf": "k1", "k2_openrlhf": "k2", "k3_openrlhf": "k3", "k3_verl": "k3"}
    if (named.placement, named.correction) == (combination.placement, combination.correction):
        same = {named.estimator, combination.estimator, unclamped.get(combination.estimator)}
        assert len(same - {None}) <= 2
        assert (named.level, named.baseline, named.gradient_of) == (
            combination.level,
            combination.baseline,
            combination.gradient_of,
        )
        assert (named.ratio_gradient, named.length_mean) == (
            combination.ratio_gradient,
            combination.length_mean,
        )
    else:  # the weight exp(x - x.detach()), which makes the gradient of k3 that of k2
        assert (combination.correction, named.placement) == ("token_ratio", "straight_through")


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda each: each.name)
def test_every_row_of_the_newest_version_can_be_set(trainer) -> None:
    rows = sum(not row.until for row in trainer.rows)
    spelled = [each for each in trainers.spellings() if each.meaning.trainer == trainer.name]
    assert len(spelled) == rows - UNSPELLED.get(trainer.name, 0)
    assert len({each.words for each in spelled}) == len(spelled)
    for row in trainer.rows:
        assert row.combination == "" or row.combination == NONE or row.coefficient, (
            "what weighs it?"
        )
        for path in (*row.when, *([row.coefficient] if row.coefficient else [])):
            assert path in {each.path for each in trainer.options}
        for path, values in row.when.items():
            allowed = next(each.values for each in trainer.options if each.path == path)
            assert not allowed or set(values) <= set(allowed)


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda each: each.name)
def test_whatever_is_set_is_known(trainer) -> None:
    """All choices of every option with all of the others."""
    for version in (trainer.since, trainer.until):
        choices = [
            each
            for each in trainer.known(version)
            if each.values and each.path != trainer.normaliser
        ]
        paths, defaults = [each.path for each in choices], trainer.settings({}, version)
        for values in product(*(each.values for each in choices)):
            trainer.row(version, defaults | dict(zip(paths, values, strict=True)))


def test_the_same_divided_by_the_length_is_the_same() -> None:
    for name, other in LENGTH_MEANS.items():
        one, mean = gradients.get(name), gradients.get(other)
        for part in (
            "estimator",
            "placement",
            "correction",
            "cap",
            "gradient_of",
            "ratio_gradient",
        ):
            assert getattr(one, part) == getattr(mean, part)
        assert not one.length_mean
        assert mean.length_mean
    assert length_mean("k1/loss") == "k1/loss/token:mean"
    assert length_mean("k3/loss/token/token_ratio") == "k3/loss/token:mean/token_ratio"


def test_names_that_trainers_have_for_combinations_are_names_of_combinations() -> None:
    for trainer in TRAINERS:
        for alias, words in trainer.aliases.items():
            found = trainers.parse(
                trainer.name + words if words.startswith("@") else f"{trainer.name} {words}"
            )
            assert gradients.get(alias) is gradients.get(found.named)
            assert alias in gradients.get(alias).aliases


@pytest.mark.parametrize(
    ("text", "combination", "coefficient"),
    [
        ("trl", "k3_ratio_loss", 0.0),
        ("trl_grpo@1.16 beta=0.04", "k3_ratio_loss", 0.04),
        ("trl_grpo==1.10.2", "k3_ratio_loss", 0.0),
        ("trl_grpo@1.9.2", "k3_loss", 0.0),
        ("trl_grpo@1.9 use_bias_correction_kl=True", "k3_ratio_loss", 0.0),
        ("trl loss_type=grpo", "k3_ratio_loss_length_mean", 0.0),
        ("trl importance_sampling_level=sequence", "k3_geometric_ratio_loss", 0.0),
        ("trl use_vllm=true", "k3_old_ratio_loss", 0.0),
        ("trl loss_type=luspo", "k3_ratio_loss", 0.0),
        ("trl@1.9 loss_type=luspo", "", 0.0),
        ("verl", NONE, 0.0),
        ("verl kl_loss_type=low_var_kl kl_loss_coef=0.001", "k3_verl_loss", 0.001),
        ("verl@0.9 actor_rollout_ref.actor.kl_loss_coef=1e-2", "k3_verl_loss", 0.01),
        (
            "verl kl_penalty=mse kl_ctrl.kl_coef=0.1 adv_estimator=rloo",
            "k2/reward/token/none/leave_one_out",
            0.1,
        ),
        ("verl use_kl_loss=false kl_loss_type=k2", NONE, 0.0),
        ("verl@0.8 kl_loss_type=k3+", "k3_verl@k2/straight_through", 0.001),
        ("verl@0.7.1 kl_loss_type=k3+", "", 0.0),
        ("verl@0.7 kl_loss_type=k3", "k3_verl_loss", 0.001),
        ("openrlhf", "k1_openrlhf/reward_to_go", 0.01),
        (
            "openrlhf@0.9 --use_kl_loss --kl_estimator k3 --init_kl_coef 0.1",
            "k3_openrlhf_loss",
            0.1,
        ),
        (
            (
                "openrlhf --algo.kl.use_loss --algo.kl.estimator=k2 --actor.loss_agg_mode"
                " seq-mean-token-mean"
            ),
            "k2_openrlhf/loss/token:mean",
            0.01,
        ),
        (
            "slime --use-kl-loss --kl-loss-type k3 --use-unbiased-kl",
            "k3_ratio_loss_length_mean",
            0.0,
        ),
        ("nemo_rl", "k3_verl/loss/token/token_ratio:differentiated", 0.01),
        ("nemo_rl@0.6.0", "k3_verl_loss", 0.01),
        ("ms-swift advantage_estimator=rloo", "k1_reward_leave_one_out", 0.04),
        (
            "tinker kl_discount_factor=0.5",
            "k1/reward_to_go/token/token_ratio/token_mean/gamma=0.5",
            0.0,
        ),
        ("prime-rl", "k2_sampler_loss", 0.001),
    ],
)
def test_words_are_understood(text, combination, coefficient) -> None:
    found = trainers.parse(text)
    assert (found.combination, found.coefficient) == (combination, coefficient)


def test_options_may_be_pythons() -> None:
    found = trainers.meaning("verl", "0.9", {"kl_loss_type": "low_var_kl", "kl_loss_coef": 1})
    assert (found.combination, found.named, found.clamp) == (
        "k3_verl_loss",
        "k3_verl_loss",
        "log-ratio to +-20, value to +-10",
    )
    assert (found.coefficient, found.normalisation) == (1.0, "mean over the batch's tokens")
    assert (found.where, found.checked) == (
        "verl/trainer/ppo/core_algos.py:kl_penalty",
        "beside the functions of verl 0.9.1",
    )
    assert found.options["actor_rollout_ref.actor.use_kl_loss"] is True
    assert trainers.meaning("trl_grpo", "1.9").checked == "read in trl 1.9.2 to 1.16.0"
    assert trainers.meaning("slime").checked == "read in THUDM/slime 624b824"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected TRAINER[@VERSION] key=value ..., got ''; available: trl_grpo,"),
        ("verl 'a", "No closing quotation"),
        (
            "vrl",
            (
                "unknown trainer 'vrl'; did you mean 'verl'? Available: trl_grpo, trl_rloo, verl,"
                " verl_distillation,"
            ),
        ),
        ("verl@2", "verl: expected a version from 0.6 to 0.9.1, got '2'"),
        ("verl@new", "verl: expected a version from 0.6 to 0.9.1, got 'new'"),
        (
            "verl kl_los_type=k1",
            "unknown option of verl 'kl_los_type'; did you mean 'kl_loss_type'?",
        ),
        (
            "verl kl_loss_type=low_var",
            "kl_loss_type of verl 'low_var'; did you mean 'low_var_kl'? Available: kl, k1, abs,",
        ),
        ("verl use_kl_loss=1", "unknown actor_rollout_ref.actor.use_kl_loss of verl '1'"),
        (
            "verl kl_loss_coef=small",
            "verl: actor_rollout_ref.actor.kl_loss_coef is a number, got 'small'",
        ),
        ("verl kl_loss_coef=true", "kl_loss_coef is a number, got 'true'"),
        ("verl kl_loss_type", "expected key=value or --key value, got 'kl_loss_type'"),
        ("verl kl_loss_type=k1 kl_loss_type=k2", "option kl_loss_type is given twice"),
        (
            "verl kl_loss_type=k1 actor.kl_loss_type=k2",
            "verl: option actor_rollout_ref.actor.kl_loss_type is given twice",
        ),
        (
            "openrlhf estimator=k1",
            "openrlhf: option 'estimator' may be algo.kl.estimator or algo.advantage.estimator",
        ),
        ("openrlhf@0.10 --unbiased_gradient", "unknown option of openrlhf '--unbiased_gradient'"),
        ("slime use_kl_loss=true --kl-loss-type", "unknown kl_loss_type of slime 'true'"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(text, message) -> None:
    with pytest.raises(ConfigError) as error:
        trainers.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


TITLES = {
    "verl": "verl",
    "OpenRLHF": "openrlhf",
    "TRL GRPO": "trl_grpo",
    "TRL RLOO": "trl_rloo",
    "NeMo-RL": "nemo_rl",
}
WORD = re.compile(r"\w+=[\w+]+|--[\w-]+(?: k\d)?|\buse_\w+")


def named_options() -> Iterator[tuple[str, str]]:
    """Each option in the texts of combinations that names a trainer and what is set, as a
    command.
    """
    for name in gradients.names():
        for option in gradients.get(name).used_by.split("; "):
            title = next((each for each in TITLES if option.startswith(each)), None)
            words = WORD.findall(re.sub(r"\(.*|:.*", "", option))
            if title and words:
                version = "@1.9" if "up to 1.9" in option else ""
                set_ = (word if "=" in word or word[0] == "-" else f"{word}=true" for word in words)
                yield name, " ".join((TITLES[title] + version, *set_))


@pytest.mark.parametrize(("name", "command"), list(named_options()))
def test_what_a_combination_says_of_its_users_is_what_their_options_mean(name, command) -> None:
    found, said = trainers.parse(command), gradients.get(name)
    if found.named:
        assert found.named == name
    else:  # a penalty in the return: the same mean, with less noise
        computed = gradients.get(found.combination)
        clamped = computed.estimator.removesuffix("_openrlhf")
        assert clamped == said.estimator or computed.gradient_of == said.gradient_of != ""
        assert computed.placement.removesuffix("_to_go") == said.placement


def test_every_setting_of_a_named_combination_is_told_once() -> None:
    told = trainers.users()
    assert set(told) - {"", NONE} <= set(gradients.names())
    texts = [text for each in told.values() for text in each]
    assert len(set(texts)) == len(texts) == len(list(trainers.spellings()))
    assert told["k3_verl_loss"][0] == (
        "verl use_kl_loss=true kl_loss_type=low_var_kl|k3 (log-ratio to +-20, value to +-10)"
    )


def test_a_trainer_goes_by_the_name_of_its_package_too() -> None:
    for name, other in {"nemo-rl": "nemo_rl", "prime-rl": "prime_rl", "trl": "trl_grpo"}.items():
        assert trainers.get(name) is trainers.get(other)
