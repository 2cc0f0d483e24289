"""The studies of gradients, from settings to tables."""

import math

import mpmath
import numpy as np
import pandas as pd
import pytest

import klbench
from klbench import gradients, pairs
from klbench.context import Context
from klbench.engine.settings import build
from klbench.gradients import corrections
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.gradient.options import GradientOptions
from klbench.types import ConfigError

TINY = {"vocabulary": 2, "horizon": 3, "prompts": 2, "kl": 0.3, "model": "transformer"}
PROMISED = (
    "pair",
    "estimator",
    "placement",
    "level",
    "correction",
    "staleness",
    "rel_bias",
    "cosine",
    "variance",
    "rel_std",
    "method",
    "unbiased_claim",
    "status",
)
WORDS = {
    "placement": {
        "loss",
        "reward",
        "reward_to_go",
        "own_token",
        "loss_and_reward",
        "straight_through",
        "full",
        "full_with_score",
    },
    "level": {"token", "sequence"},
    "method": {"enumeration", "closed-form", "sampling"},
}


def pair(kind="sequence", **fields):
    return pairs.get(kind)(**({**TINY, **fields} if kind == "sequence" else fields))


LAPLACE = pair("laplace", q={"loc": 0.0, "scale": 1.0}, p={"loc": 1.0, "scale": 1.0})
GAUSSIAN = pair("gaussian", q={"mean": 0.0, "std": 1.0}, p={"mean": 0.8, "std": 0.75})
EXPONENTIAL = pair("exponential", q={"rate": 1.0}, p={"rate": 0.7})


def tables(name, seed=0, workers=1, **options):
    study = get(name)
    return study.run(study.options(**options), Context(seed, workers=workers))


@pytest.fixture(scope="module")
def measured() -> dict[str, pd.DataFrame]:
    return tables("gradient", pairs=(pair(), GAUSSIAN, EXPONENTIAL), samples=20_000)


def test_an_interrupted_run_keeps_what_is_finished_and_continues_to_the_same_bits(
    measured, tmp_path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    study, folder = get("gradient"), RunFolder(tmp_path)
    options = study.options(pairs=(pair(), GAUSSIAN, EXPONENTIAL), samples=20_000)
    context = Context(0, folder=folder, progress=stop)
    partial = study.run(options, context)
    assert context.interrupted
    assert list(dict.fromkeys(partial["gradients"]["pair"])) == [pair().title, GAUSSIAN.title]
    assert {path.stem for path in (tmp_path / "parts").iterdir()} == {"task-0", "task-1"}
    again = study.run(options, Context(0, folder=folder))
    for name, table in measured.items():
        pd.testing.assert_frame_equal(again[name], table, check_exact=True)


def test_the_columns_and_words_that_are_promised(measured) -> None:
    table = measured["gradients"]
    assert set(PROMISED) <= set(table.columns)
    for column, allowed in WORDS.items():
        assert set(table[column]) <= allowed
    for correction in set(table["correction"]):
        assert corrections.factors(correction.removesuffix(":normalised")) or correction == "none"
    assert set(table["method"]) == {"enumeration", "closed-form", "sampling"}
    assert set(table["status"]) == {"ok"}
    assert len(table) == 3 * len(gradients.names())


def test_what_is_found_is_what_is_known(measured) -> None:
    table = measured["gradients"].set_index(["pair", "combination"])
    sequence = pair().title
    for name, found in (
        ("k1_loss", "0"),
        ("k1_reward", "KL(q‖p)"),
        ("k3_sequence_loss", "KL(p‖q)"),
        ("k3_loss", "none"),
    ):
        assert table.loc[(sequence, name), "matches"] == found
    assert table.loc[(sequence, "k1_reward_batch_mean"), "rel_bias"] == pytest.approx(1 / 8)
    assert math.isnan(table.loc[(sequence, "k1_loss"), "cosine"])
    assert table.loc[(sequence, "k1_reward"), "balance_batch"] == math.inf
    row = table.loc[(sequence, "k3_loss")]
    bias = row["rel_bias"] * math.sqrt(row["variance"]) / row["rel_std"]
    assert row["balance_batch"] == pytest.approx(row["variance"] / bias**2)
    sampled = table.loc[(GAUSSIAN.title, "k1_reward_leave_one_out")]
    assert sampled["method"] == "sampling"
    assert sampled["rel_bias"] <= 5 * sampled["rel_bias_se"]
    assert sampled["matches"] == "KL(q‖p)"


def test_the_verdicts_are_what_is_claimed(measured) -> None:
    found = measured["verdicts"].set_index("combination")
    for name in gradients.names():
        claim = gradients.get(name).claim
        if claim and claim != "biased":
            assert found.loc[name, "target"] == claim.replace("grad ", "")
    assert found.loc["k1_loss", "verdict"] == "no gradient"
    assert (
        found.loc["k2_loss", "verdict"] == "right on some pairs"
    )  # it leaves out what a token does to later ones
    assert found.loc["k1_plus", "same_as"] == "k2_loss"
    ranked = found[found["place"].notna()].sort_values("place")
    assert set(ranked["verdict"]) == {"right"}
    noise = ranked["total_rel_std_far"]
    assert noise.where(noise > 1e-8, 0.0).round(9).is_monotonic_increasing


def test_each_option_of_a_trainer_is_named_with_what_to_set_instead(measured) -> None:
    options = measured["options"].set_index("option")
    k1 = "verl use_kl_loss=true kl_loss_type=kl|k1"
    assert options.loc[k1, ["trainer", "verdict", "instead"]].tolist() == [
        "verl",
        "no gradient",
        "verl use_kl_in_reward=true kl_penalty=kl|kl+|k1|k1+",
    ]
    assert options.loc["TRL RLOO", ["verdict", "instead"]].tolist() == ["right", ""]
    (nemo,) = (options.loc[each] for each in options.index if "use_on_policy_kl" in each)
    assert nemo["trainer"] == "NeMo-RL"  # which has no right one
    assert nemo["instead"] == ""
    best = measured["verdicts"].set_index("combination")["place"].idxmin()
    assert nemo["instead_combination"] == best


def test_runs_of_earlier_versions_are_given_the_same_verdicts(measured) -> None:
    old = {name: table for name, table in measured.items() if name not in ("verdicts", "options")}
    completed = get("gradient").completed(old, 0)
    for name in ("verdicts", "options"):
        pd.testing.assert_frame_equal(completed[name], measured[name])


def test_a_policy_of_two_parameters_can_be_drawn(measured) -> None:
    arrows = measured["arrows"].set_index("combination")
    assert set(arrows["pair"]) == {GAUSSIAN.title}
    exact = GAUSSIAN.gradient_task().gradient("kl_qp").tolist()
    assert arrows.loc["exact KL(q‖p)", ["first", "second"]].tolist() == pytest.approx(exact)
    assert arrows.loc["k1_reward", ["first", "second"]].tolist() == pytest.approx(exact)


@pytest.mark.usefixtures("workers_at_once")
def test_one_seed_one_table_whatever_the_workers() -> None:
    small = pair(model="table", horizon=2)
    settings = {
        "pairs": (small, GAUSSIAN),
        "combinations": ("k3_loss", "trl_rloo", "abs_reward"),
        "samples": 4096,
    }
    one, two = (tables("gradient", seed=5, workers=n, **settings)["gradients"] for n in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    other = tables("gradient", seed=6, **settings)["gradients"]
    differs = (one["rel_std"] != other["rel_std"]).to_numpy()
    np.testing.assert_array_equal(differs, one["method"] == "sampling")


def test_axes_in_place_of_names() -> None:
    options = GradientOptions(
        pairs=(GAUSSIAN,),
        estimators=("k3",),
        placements=("loss", "full"),
        corrections=("token_ratio",),
    )
    found = [each.spec for each in options.chosen()]
    assert "k3/loss/token/token_ratio/none" in found
    assert "k3/loss/token/token_ratio:differentiated/none" in found
    assert {each.placement for each in options.chosen()} == {"loss", "full"}


@pytest.mark.parametrize(("spread", "heavy"), [(1.5, "k3_loss"), (1.2, "bregman_chi2/loss")])
def test_a_heavy_tail_has_no_variance_in_closed_form_or_sampled(spread, heavy) -> None:
    wide = pair("gaussian", q={"std": 1.0}, p={"mean": 0.1, "std": spread})
    table = tables("gradient", pairs=(wide,), combinations=(heavy, "k1_reward"), samples=2048)[
        "gradients"
    ]
    assert table["status"].tolist() == ["infinite variance", "ok"]
    assert table["variance"].iloc[0] == math.inf


def test_a_tail_that_cancels_is_none() -> None:
    """Off-policy too, where it is sampled.

    R - 1 in the reward and 1 - r, its slope, leave -log r.
    """
    sides = {"q": {"mean": 0.3, "std": 1.0}, "p": {"mean": 1.0, "std": 1.5}}
    names = (
        "k3_loss_and_reward",
        "k3_ratio_loss",
        "k3_detached_ratio_loss",
        "k3/loss/token/truncated_ratio:differentiated",
        "bregman_js/loss_and_reward",
        "bregman_js/loss",
    )
    table = tables(
        "gradient", pairs=(pair("gaussian", **sides),), combinations=names[:3], samples=2048
    )["gradients"]
    assert table["status"].tolist() == ["ok", "ok", "infinite variance"]
    assert table["variance"].tolist() == [pytest.approx(5.107667, abs=5e-7)] * 2 + [math.inf]
    stale = pair("gaussian", **sides, mu={"std": 0.95})
    table = tables("gradient", pairs=(stale,), combinations=names, samples=65_536)["gradients"]
    # A ratio that is cut off has no slope, so that nothing cancels k3's own beyond the cap;
    # detached, nothing does at all. Of JS, f(r) - r f'(r) is -log((1 + r) / 2) / 2.
    assert table["status"].tolist() == [
        "ok",
        "ok",
        "infinite variance",
        "infinite variance",
        "ok",
        "infinite variance",
    ]
    assert table["matches"].iloc[1] == "KL(q‖p)"


@pytest.mark.parametrize(
    ("logit", "bias", "noise"),
    [
        (-36.0, 5.98782159321545e13, 6.43957462905751e7),
        (-40.0, 2.94231583546274e15, 4.76757923227188e8),
        (-60.0, 9.51672824846402e23, 1.05630195860860e13),
    ],
)
def test_far_from_the_reference_no_digit_is_lost_and_no_claim_is_broken(logit, bias, noise) -> None:
    """The right values are from 60 digits: (p - q) against q (1 - q) logit, both times (1, -1)."""
    far = pair("categorical", q={"logits": (0.0, logit)}, p={"logits": (0.0, 0.0)})
    table = tables("gradient", pairs=(far,))["gradients"].set_index("combination")
    assert set(table["status"]) == {"ok"}
    k3, k1 = table.loc["k3_loss"], table.loc["k1_reward"]
    assert k3["rel_bias"] == pytest.approx(bias, rel=1e-12)
    assert k3["cosine"] == pytest.approx(1.0, abs=1e-12)
    assert (k3["matches"], k1["matches"]) == ("KL(p‖q)", "KL(q‖p)")
    assert k1["rel_bias"] < 1e-12
    assert k1["rel_std"] == pytest.approx(noise, rel=1e-12)
    assert table.loc["k1_loss", "matches"] == "0"


@pytest.mark.filterwarnings("error")
def test_where_float64_ends_the_row_says_so() -> None:
    """At -800 the bias of k3 in the loss is 1.7e344, and the exact gradient itself too small for
    a float.
    """
    ends = tuple(
        pair("categorical", q={"logits": (0.0, x)}, p={"logits": (0.0, 0.0)})
        for x in (-700.0, -800.0)
    )
    near, beyond = (
        part for _, part in tables("gradient", pairs=ends)["gradients"].groupby("kl_pq")
    )
    assert near["kl_pq"].iloc[0] == pytest.approx(350.0 - math.log(2.0))
    assert beyond["kl_pq"].iloc[0] == pytest.approx(400.0 - math.log(2.0))
    near, beyond = (part.set_index("combination") for part in (near, beyond))
    assert near.loc[["k1_reward", "k2_loss", "k3_ratio_loss"], "status"].tolist() == ["ok"] * 3
    assert near.loc["k3_loss", "status"] == "beyond float64"  # its noise is 1e456
    assert near.loc["k3_loss", "rel_bias"] == pytest.approx(7.2445146766790e300, rel=1e-12)
    assert set(beyond["status"]) == {"beyond float64"}
    assert set(beyond["matches"]) == {""}
    assert beyond.loc["k3_loss", "rel_bias"] == math.inf
    assert beyond[["cosine", "snr", "balance_batch"]].isna().all().all()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_the_best_lambdas_where_float64_ends_are_no_numbers() -> None:
    beyond = pair("categorical", q={"logits": (0.0, -800.0)}, p={"logits": (0.0, 0.0)})
    row = tables("lambda", pairs=(beyond,))["lambda"].iloc[0]
    assert (row["chi2"], row["lambda_value"]) == (math.inf, 0.0)
    assert math.isnan(row["lambda_gradient"])


def test_moments_beyond_float64_are_not_called_infinite() -> None:
    """E[r^2] = e^1600 for a shift of 40."""
    shift = pair("gaussian", q={"mean": 0.0}, p={"mean": 40.0})
    row = tables("gradient", pairs=(shift,), combinations=("k3_loss",), samples=2048)[
        "gradients"
    ].iloc[0]
    assert (row["variance"], row["status"]) == (math.inf, "beyond float64")


def test_a_sampled_gradient_without_noise_is_matched_up_to_rounding() -> None:
    far = pair("gaussian", q={"mean": [0.1, 0.7, -0.3]}, p={"mean": 0.0, "std": [1.2, 0.8, 1.0]})
    table = tables("gradient", pairs=(far,), combinations=("full_loss", "k2_loss"), samples=2048)[
        "gradients"
    ]
    row = table.iloc[0]
    assert row["method"] == "sampling"
    assert row["variance"] < 1e-24
    assert 0.0 < row["rel_bias"] < 1e-12
    assert (row["matches"], row["status"]) == ("KL(q‖p)", "ok")


def test_a_mean_that_diverges_is_no_number() -> None:
    wider = pair("gaussian", q={"std": 1.0}, p={"mean": 0.1, "std": 1.6})
    row = tables("gradient", pairs=(wider,), combinations=("bregman_chi2/loss",), samples=2048)[
        "gradients"
    ].iloc[0]
    assert row["status"] == "infinite mean"
    assert math.isnan(row["rel_bias"])
    assert row["matches"] == ""


@pytest.mark.parametrize(("spread", "status"), [(1.5, "infinite variance"), (0.9, "ok")])
def test_a_sampler_with_light_tails_has_weights_without_variance(spread, status) -> None:
    stale = pair("gaussian", q={"std": spread}, p={"mean": 0.3, "std": 1.0}, mu={"std": 1.0})
    names = ("k1_reward_sequence_ratio", "k3_sequence_ratio_loss")
    table = tables("gradient", pairs=(stale,), combinations=names, samples=16_384)["gradients"]
    assert table["status"].tolist() == [status] * 2
    if status == "ok":
        assert table["matches"].tolist() == ["KL(q‖p)"] * 2


def test_so_near_the_reference_that_all_is_rounding() -> None:
    near = pair("gaussian", q={"mean": 0.0}, p={"mean": 1e-8})
    some = ("k1_loss", "k2_loss", "k3_loss", "k3_reward", "full_loss")
    table = tables("gradient", pairs=(near,), combinations=some, samples=2048)[
        "gradients"
    ].set_index("combination")
    assert set(table["status"]) == {"ok"}
    assert table.loc["k1_loss", "matches"].endswith("0")


def test_chance_does_not_break_an_exact_claim() -> None:
    near = pair("exponential", q={"rate": 1.0}, p={"rate": 0.7})
    settings = {"pairs": (near,), "combinations": ("trl_rloo",), "samples": 2048}
    found = {
        tables("gradient", seed=seed, **settings)["gradients"]["status"].iloc[0]
        for seed in range(20)
    }
    assert found == {"ok"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combinations": ["k3_los"]}, "did you mean 'k3_loss'?"),
        (
            {"combinations": ["k3_ratio_loss", "trl_grpo"]},
            "k3_ratio_loss and trl_grpo are the same combination",
        ),
        ({"combinations": ["k3_loss", "k3/loss"]}, "k3_loss and k3/loss are the same combination"),
        ({"combinations": []}, "needs at least 1 of them"),
        ({"placements": ["los"]}, "must be one of 'loss'"),
        (
            {"estimators": ["k3"], "placements": ["full"], "levels": ["sequence"]},
            "no combination of these",
        ),
        ({"group": 1}, "must be at least 2"),
        ({"samples": 512}, "samples=512 must be at least 256 times group=8: 2048"),
        ({"combinations": ["k3_loss"], "estimators": ["k1"]}, "not both"),
        ({"combinations": "trl_grp"}, "did you mean 'trl_grpo'?"),
        (
            {"pairs": [pair("gaussian", q={"mean": 1.0}, p={"mean": 1.0})]},
            "policy and reference are the same",
        ),
        (
            {"pairs": [LAPLACE]},
            (
                "pairs.0=laplace: laplace pairs have no policy gradient here; pairs with a policy"
                " gradient: "
            ),
        ),
    ],
)
def test_bad_settings_get_one_line(options, message) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        build(GradientOptions, {"pairs": [GAUSSIAN]} | options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_staleness_takes_a_pair_that_can_lag() -> None:
    with pytest.raises(
        ConfigError, match="gaussian pairs have no lag; staleness is measured on pair=sequence"
    ):
        build(get("staleness").options, {"pairs": [GAUSSIAN]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lags": 1000.0}, "lag=1000 is out of reach"),
        ({"lags": []}, "lags=[]: needs at least 1 of them"),
        ({"pairs": [pair(lag=0.1)]}, "its lag is set by lags=[...]"),
    ],
)
def test_bad_lags_get_one_line(options, message) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        build(get("staleness").options, {"pairs": [pair()]} | options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_staleness() -> None:
    run = tables("staleness", pairs=(pair(),), lags=(0.1, 0.0))
    table = run["staleness"]
    assert list(dict.fromkeys(table["staleness"])) == [0.0, 0.1]
    assert len(set(table["pair"])) == 1
    now, later = (table[table["staleness"] == lag].set_index("combination") for lag in (0.0, 0.1))
    assert now["ess"].iloc[0] == pytest.approx(1.0)
    assert 0.0 < later["ess"].iloc[0] < later["ess_token"].iloc[0] < 1.0
    exact_anyhow = [name for name in later.index if gradients.get(name).off_policy]
    assert exact_anyhow
    assert (later.loc[exact_anyhow, "matches"] == "KL(q‖p)").all()
    assert later.loc["k1_reward", "rel_bias"] > 0.1
    assert now.loc["k1_reward", "rel_bias"] < 1e-12
    found = run["corrections"].set_index("combination")
    assert (found.loc[exact_anyhow, "verdict"] == "right at every lag").all()
    assert found.loc["k1_reward", "verdict"] == "right without a lag"
    assert found.loc["k3_loss", "verdict"] == "off at every lag"
    wrong = found[found["verdict"] != "right at every lag"]
    biased = wrong.loc[wrong["best_sampled_up_to"].idxmax()]
    rival, at = (
        later.loc[biased["sampled_rival"]],
        biased["best_sampled_up_to"],
    )  # errors are equal in such a batch
    error = biased["rel_bias_last"] ** 2 + biased["rel_std_last"] ** 2 / at
    assert error == pytest.approx(rival["rel_std"] ** 2 / at)


def test_effective_sample_size_by_the_draws() -> None:
    stale = pair(lag=0.1)
    found = (
        get("staleness")
        .run(get("staleness").options(pairs=(pair(),), lags=(0.1,)), Context(0))["staleness"]["ess"]
        .iloc[0]
    )
    per_prompt = []
    for atoms in stale.gradient_task().atoms():
        weight = (atoms.rollouts.log_q - atoms.rollouts.log_mu).sum(-1).exp()
        assert float(atoms.probability @ weight) == pytest.approx(1.0)
        per_prompt.append(
            float(atoms.probability @ weight) ** 2 / float(atoms.probability @ weight**2)
        )
    assert found == pytest.approx(np.mean(per_prompt))


def test_lambda_is_least_where_it_is_said_to_be() -> None:
    one = pair("categorical", random={"size": 6, "kl": 0.4})
    row = tables("lambda", pairs=(one,))["lambda"].iloc[0]
    assert row["lambda_value"] == pytest.approx((row["kl_qp"] + row["kl_pq"]) / row["chi2"])
    assert row["value_std_best"] < min(row["value_std_k1"], row["value_std_k3"])
    best = row["gradient_rel_std_gradient_best"]
    assert best < min(
        row["gradient_rel_std_0"], row["gradient_rel_std_1"], row["gradient_rel_std_value_best"]
    )
    # The same by the loss itself: k_lambda with its ratio differentiated.
    for weight, column in ((row["lambda_gradient"], best), (0.0, row["gradient_rel_std_0"])):
        spec = f"k_lambda:{float(weight)!r}/loss/sequence/sequence_ratio:differentiated"
        table = tables("gradient", pairs=(one,), combinations=(spec,))["gradients"].iloc[0]
        assert table["rel_bias"] < 1e-12
        assert table["rel_std"] == pytest.approx(column, rel=1e-9)


def test_lambdas_far_from_the_reference_keep_their_digits() -> None:
    """Two outcomes, by hand.

    Squared scores have the weights ``2 q_a q_b^2``, and the gradient is ``q_0 q_1 (u_0 - u_1)``.
    """
    far = pair("categorical", q={"logits": (0.0, -40.0)}, p={"logits": (0.0, 0.0)})
    row = tables("lambda", pairs=(far,))["lambda"].iloc[0]
    with mpmath.workdps(60):
        rare = mpmath.exp(-40) / (1 + mpmath.exp(-40))
        q = (1 - rare, rare)
        u = [mpmath.log(2 * each) for each in q]
        weights = [2 * q[0] * q[1] ** 2, 2 * q[1] * q[0] ** 2]
        best = 1 + sum(w * x for w, x in zip(weights, u, strict=True)) / sum(weights)
        square = 2 * (q[0] * q[1] * (u[0] - u[1])) ** 2
        noise = {
            at: mpmath.sqrt(
                (sum(w * (x + 1 - at) ** 2 for w, x in zip(weights, u, strict=True)) - square)
                / square
            )
            for at in (0, 1, best)
        }
    assert row["lambda_gradient"] == pytest.approx(float(best), rel=1e-13)
    for at, column in ((0, "0"), (1, "1"), (best, "gradient_best")):
        assert row[f"gradient_rel_std_{column}"] == pytest.approx(
            float(noise[at]), rel=1e-10, abs=1e-6
        ), column


def test_lambda_refuses_what_it_cannot_enumerate() -> None:
    with pytest.raises(ConfigError, match="gaussian pairs have no end of samples"):
        build(get("lambda").options, {"pairs": [GAUSSIAN]})
    with pytest.raises(ConfigError, match="on-policy"):
        build(get("lambda").options, {"pairs": [pair(lag=0.1)]})


def test_one_kl_in_many_shapes() -> None:
    table = tables("same_kl", kls=(0.1, 0.3))["shapes"]
    assert len(table) == 12
    assert np.allclose(table["kl_qp"], np.tile([0.1, 0.3], 6), rtol=1e-10)
    wins = table["chi2"] < table["two_j"]
    np.testing.assert_array_equal(table["value_winner"] == "k3", wins)
    assert (table["predicted"] == table["value_winner"]).all()
    assert 0 < wins.sum() < 12  # the KL does not decide
    with pytest.raises(ConfigError, match=r"kls=1\.5: the shape sharpened reaches"):
        tables("same_kl", shapes=("sharpened",), kls=(1.5,), size=4)


def test_from_the_command_line_to_the_page(tmp_path) -> None:
    run = klbench.run(
        "gradient",
        "pair=sequence",
        *(f"pair.{key}={value}" for key, value in TINY.items()),
        "combinations=[k1_loss,trl_grpo]",
        f"out={tmp_path / 'run'}",
    )
    assert run.tables["gradients"]["combination"].tolist() == ["k1_loss", "k3_ratio_loss"]
    assert "TRL GRPO" in (run.path / "index.html").read_text(encoding="utf-8")
