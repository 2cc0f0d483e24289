"""The pair of language models: what it hands on, and what it says before anything is loaded."""

import subprocess
import sys
from collections.abc import Iterator

import cloudpickle
import numpy as np
import pytest
from pydantic import ValidationError

from klbench import pairs
from klbench.choices import OnePair
from klbench.engine import settings
from klbench.lm import embedded
from klbench.pairs.lm import LmPair
from klbench.types import ConfigError

T = 12


@pytest.fixture(scope="module", autouse=True)
def lm_cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("lm-cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def pair(**options) -> LmPair:
    return LmPair(
        **{"policy": "embedded:finetuned-far", "max_new_tokens": T, "prompt_count": 7} | options
    )


def test_a_pair_is_made_and_named_without_torch() -> None:
    code = (
        "import sys; from klbench import pairs; p = pairs.get('lm')(); p.title, p.off_policy,"
        " p.truth('kl_qp'); assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
    assert pair().title == "LM finetuned-far ‖ reference, 12 tokens"
    far_off = pair(temperature=0.7, top_p=0.9, top_k=5, dtype="bfloat16")
    assert (
        far_off.title
        == "LM finetuned-far ‖ reference, 12 tokens, T=0.7, top-p 0.9, top-k 5, bfloat16"
    )


def test_what_is_sampled_and_scored_at_one_temperature_is_on_policy() -> None:
    both = pair(temperature=0.6, scored_temperature=0.6)
    assert not both.off_policy
    found, plain = both.completions(0, 0, 20), pair(temperature=0.6).completions(0, 0, 20)
    assert found.log_mu is None
    np.testing.assert_array_equal(found.token, plain.token)
    np.testing.assert_allclose(found.log_q, plain.log_mu, atol=1e-5)
    assert found.kl_qp.sum() > plain.kl_qp.sum()
    mixed = pair(temperature=0.9, scored_temperature=0.6)
    sampled, title = mixed.completions(0, 0, 20), mixed.title
    own = mixed.on_policy()
    assert (own.temperature, own.scored_temperature) == (0.6, 0.6)
    # What was made at the sampler's temperature is not taken for the policy's own.
    assert own.title != title
    np.testing.assert_array_equal(own.completions(0, 0, 20).token, found.token)
    assert not np.array_equal(sampled.token, found.token)


def test_completions_are_what_they_say() -> None:
    found = pair().completions(0, 0, 20)
    assert found.log_q.shape == (20, T)
    assert found.log_mu is None
    assert found.token.dtype == found.prompt.dtype == np.int64
    assert found.mask.dtype == bool
    np.testing.assert_array_equal(found.prompt, np.arange(20) % 7)
    for values in (found.log_q, found.log_p, found.kl_qp, found.kl_pq):
        assert values.dtype == np.float64
        assert (values[~found.mask] == 0.0).all()
    assert (found.log_q[found.mask] < 0.0).all()
    assert found.kl_qp.sum() > 0.0 < found.kl_pq.sum()
    assert found.mask[:, 0].all()


def test_shards_and_seeds_have_streams_of_their_own() -> None:
    first, same, shard, seed = (
        pair().completions(*at, 14) for at in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    np.testing.assert_array_equal(first.token, same.token)
    np.testing.assert_array_equal(first.log_p, same.log_p)
    assert (first.token != shard.token).any(-1).all()
    assert (first.token != seed.token).any(-1).all()
    np.testing.assert_array_equal(pair().completions(0, 1, 5).prompt, (5 + np.arange(5)) % 7)


@pytest.mark.parametrize(
    "options", [{"batch": 3, "score_batch": 1}, {"score_batch": 8}, {"kernel": "reference"}]
)
def test_batches_and_kernels_change_no_number(options) -> None:
    plain, other = pair().completions(0, 0, 20), pair(**options).completions(0, 0, 20)
    np.testing.assert_array_equal(plain.token, other.token)
    for name in ("log_q", "log_p", "kl_qp", "kl_pq"):
        np.testing.assert_allclose(getattr(plain, name), getattr(other, name), atol=1e-5)


def test_the_mean_log_ratio_is_that_of_the_exact_divergences() -> None:
    found = pair().completions(0, 0, 2_000)
    difference = (found.log_q - found.log_p - found.kl_qp).sum(-1)
    assert abs(difference.mean()) <= 5 * difference.std(ddof=1) / np.sqrt(len(difference))
    ratio = np.exp((found.log_p - found.log_q).sum(-1))
    assert abs(ratio.mean() - 1.0) <= 5 * ratio.std(ddof=1) / np.sqrt(len(ratio))


def test_another_temperature_is_another_sampler() -> None:
    hot = pair(temperature=1.5)
    assert hot.off_policy
    found = hot.completions(0, 0, 2_000)
    weight = np.exp((found.log_q - found.log_mu).sum(-1))
    assert abs(weight.mean() - 1.0) <= 5 * weight.std(ddof=1) / np.sqrt(len(weight))
    for option in ({"top_p": 0.9}, {"top_k": 5}):
        cut = pair(**option).completions(0, 0, 10)
        assert (cut.log_mu >= cut.log_q - 1e-5).all()
        assert (cut.log_mu - cut.log_q).sum() > 0.5


def test_generation_and_scoring_have_their_own_times() -> None:
    from klbench.context import Context
    from klbench.studies import get
    from klbench.studies.lm.options import LmOptions

    found = dict(
        get("lm").run(LmOptions(pairs=(pair(),), samples=20, shard=10, rescored=0), Context(0))
    )["throughput"]
    seconds = found.set_index("stage")["seconds"]
    assert seconds["generation"] > 0.0 < seconds["scoring"]
    assert seconds["generation"] + seconds["scoring"] <= seconds["completions"]


def test_a_policy_that_is_still_its_reference(tmp_path) -> None:
    from klbench.context import Context
    from klbench.report import render
    from klbench.runs import RunFolder
    from klbench.studies import get
    from klbench.studies.lm.options import LmOptions

    same = pair(policy="embedded:reference")
    found = dict(
        get("lm").run(LmOptions(pairs=(same,), samples=20, shard=10, rescored=5), Context(0))
    )
    values = found["values"]
    assert set(values[values["target"] == "KL(q‖p)"]["mean"]) == {0.0}
    assert set(found["truncation"]["missing"]) == {0.0}
    assert found["truncation"]["share"].isna().all()
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.begin(status="done", experiment="lm", study="lm")
    folder.write_tables(found)
    assert render(folder.path).is_file()


def test_draws_are_log_ratios_of_whole_completions() -> None:
    draws, same = (pair().draw(np.random.default_rng(5), 30) for _ in range(2))
    np.testing.assert_array_equal(draws.log_ratio, same.log_ratio)
    assert draws.log_ratio.shape == (30,)
    assert draws.log_ratio.dtype == np.float64
    assert draws.log_weight is None
    assert pair(top_k=9).draw(np.random.default_rng(5), 3).log_weight.shape == (3,)
    stream = np.random.default_rng(5)
    pair().draw(stream, 30)
    assert not np.array_equal(pair().draw(stream, 30).log_ratio, draws.log_ratio)


def test_nothing_is_exact_and_all_moments_are_finite() -> None:
    assert pair().truth("kl_qp") is None
    assert pair().exact([None, None]) == [None, None]
    assert pair().finite_moment(100.0, 3.0)
    assert pair().tail_index() == 0.0


def test_rescored_in_its_own_dtype_is_the_same_and_in_half_precision_it_drifts() -> None:
    found = pair(temperature=0.9).completions(0, 0, 10)
    same, half = (pair(temperature=0.9).rescored(found, dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_array_equal(same.log_q, found.log_q)
    drift = np.abs(half.log_q - found.log_q)
    assert 1e-5 < drift.max() < 0.2
    for again in (same, half):
        np.testing.assert_array_equal(again.token, found.token)
        np.testing.assert_array_equal(again.log_mu, found.log_mu)
        np.testing.assert_array_equal(again.prompt, found.prompt)


def test_truncated_divergences_and_their_error() -> None:
    found = pair().completions(0, 0, 10)
    few, many = pair().truncated(found, (5, 100))
    for each in (few, many):
        np.testing.assert_allclose(each.kl_qp + each.error, found.kl_qp, atol=1e-9)
        assert (each.error >= -2e-6).all()
    assert few.error.sum() > many.error.sum() > 0.0


def test_a_pair_travels_without_its_models() -> None:
    here = pair()
    here.prepare()
    there = cloudpickle.loads(sent := cloudpickle.dumps(here))
    assert len(sent) < 10_000
    assert there == here
    np.testing.assert_array_equal(there.completions(0, 0, 5).log_q, here.completions(0, 0, 5).log_q)
    assert LmPair.model_validate_json(here.model_dump_json()) == here


def test_tokens_are_shown_one_by_one() -> None:
    found = pair().completions(0, 0, 3)
    shown = pair().decode(found.token[0][found.mask[0]])
    assert len(shown) == found.mask[0].sum()
    assert all(isinstance(each, str) for each in shown)


def test_prompts_of_a_file(tmp_path) -> None:
    (tmp_path / "some.txt").write_text("The value\nA name\n")
    chosen = pair(prompts=str(tmp_path / "some.txt"))
    assert chosen.completions(0, 0, 5).prompt.tolist() == [0, 1, 0, 1, 0]


def test_the_kernel_that_is_chosen_is_told(monkeypatch) -> None:
    """Plain torch for the few tokens of an embedded model, compiled loops for many."""
    assert pair().chosen_kernel == pair(kernel="reference").chosen_kernel == "reference"
    assert pair(kernel="cpu").chosen_kernel == "cpu"
    monkeypatch.setattr("klbench.pairs.lm.FEW", 1)
    assert pair().chosen_kernel == "cpu"


def test_a_batch_that_did_not_fit_stays_halved_from_shard_to_shard(monkeypatch) -> None:
    from klbench.lm import batching, scoring

    chosen, whole = pair(score_batch=8), pair().completions(0, 1, 8)
    logits, most = scoring._logits, []

    def scarce(lm, ids, *rest):
        most.append(len(ids))
        if len(ids) > 2:
            raise MemoryError
        return logits(lm, ids, *rest)

    monkeypatch.setattr(scoring, "_logits", scarce)
    with pytest.warns(batching.Notice, match="with 8 sequences at a time; went on with 2"):
        chosen.completions(0, 0, 8)
    most.clear()
    np.testing.assert_allclose(chosen.completions(0, 1, 8).kl_qp, whole.kl_qp, atol=1e-5)
    assert max(most) == 2


def test_a_context_that_is_too_short_is_said_before_sampling() -> None:
    with pytest.raises(
        ConfigError,
        match=r"max_new_tokens=90 after a prompt of \d+ tokens .* the 96 tokens of embedded:fine",
    ):
        pair(max_new_tokens=90).prepare()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "embedded:finetuned-nera"}, "did you mean 'finetuned-near'"),
        ({"policy": "./nothing"}, "pair.policy='./nothing': ./nothing: no such folder"),
        ({"reference": "/nothing/here"}, "pair.reference='/nothing/here'"),
        ({"reference": "not a name"}, "neither a folder that exists, nor a hub id"),
        ({"prompts": "nothing.txt"}, "pair.prompts='nothing.txt': nothing.txt: no such file"),
        (
            {"dtype": "float8"},
            "pair.dtype='float8': must be one of 'float32', 'bfloat16', 'float16' or 'int8'",
        ),
        ({"device": "tpu"}, "'cpu' or 'cuda'"),
        ({"kernel": "fast"}, "'auto', 'triton', 'cpu' or 'reference'"),
        ({"batch": 0}, "pair.batch=0: must be at least 1"),
        ({"temperature": 0}, "pair.temperature=0: must be greater than 0"),
        ({"temperature": 1e-320}, "must be at least 1e-06"),
        ({"top_p": 1.5}, "pair.top_p=1.5: must be at most 1"),
        ({"top_k": -1}, "pair.top_k=-1: must be at least 0"),
        ({"max_new_tokens": 0}, "pair.max_new_tokens=0: must be at least 1"),
        ({"polcy": "x"}, "did you mean 'pair.policy'?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_loaded(options, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        settings.build(OnePair, {"pair": {"kind": "lm", **options}})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_value_study_sends_language_models_to_theirs() -> None:
    from klbench.engine import app

    with pytest.raises(
        ConfigError, match=r"lm pairs have none; measure it with \+exp=lm pair=lm policy"
    ):
        app.check(app.normalized(["+exp=value", "pair=lm"]))


def test_models_of_two_tokenizers_are_refused(tmp_path) -> None:
    import shutil

    other = shutil.copytree(embedded.folder("embedded:reference"), tmp_path / "other")
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace('"Ā"', '"XX"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="different tokenizers"):
        pair(reference=str(other)).prepare()


def test_it_is_registered_and_frozen() -> None:
    assert pairs.get("lm") is LmPair
    with pytest.raises(ValidationError, match="frozen"):
        pair().label = "mine"
    found = pair().completions(0, 0, 2)
    bare = type(found)(found.log_q, found.log_p, found.mask)
    with pytest.raises(ValueError, match="without tokens and prompts"):
        pair().rescored(bare, "float32")


def test_the_same_completions_are_not_made_twice(monkeypatch) -> None:
    one, made = pair(), []
    sampled = type(one)._sampled
    monkeypatch.setattr(
        type(one), "_sampled", lambda self, *of: made.append(len(of[0])) or sampled(self, *of)
    )
    first = one.completions(0, 0, 6)
    assert one.completions(0, 0, 6) is first
    for at in ((1, 0, 6), (1, 1, 6), (1, 0, 5)):
        one.completions(*at)
    assert made == [6, 6, 6, 5]
    np.testing.assert_array_equal(pair().completions(0, 0, 6).log_q, first.log_q)
