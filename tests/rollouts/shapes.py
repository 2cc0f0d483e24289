"""One content in every shape that trainers and engines write rollouts in."""

import gzip
import json
import math
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import safetensors.numpy
import safetensors.torch
import torch

FOUND = {"tokens": "token ids", "mask": "mask"}


def rollouts(n: int = 40, seed: int = 3) -> list[dict]:
    """Rollouts of 1 to 8 tokens: of prompt ids, response ids, and log-probabilities of four policies."""
    stream, rows = np.random.default_rng(seed), []
    for i in range(n):
        size = int(stream.integers(1, 9))
        policy = -stream.gamma(1.0, 1.0, size).round(6)
        near = {
            name: (policy + stream.normal(0.0, width, size).round(6)).round(6).tolist()
            for name, width in (("sampler", 1e-3), ("old", 1e-4), ("reference", 0.1))
        }
        prompt = (2 + np.arange(i % 5 + 1)).tolist()
        rows.append(
            {
                "policy": policy.tolist(),
                **near,
                "tokens": stream.integers(0, 50, size).tolist(),
                "prompt": prompt,
                "reward": float(i % 3),
                "step": i // 10,
            }
        )
    return rows


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def renamed(rows: list[dict], **names: str) -> list[dict]:
    return [{new: row[old] for old, new in names.items()} for row in rows]


def padded(rows: list[dict], names: dict[str, str], filler: float = 0.0) -> dict[str, np.ndarray]:
    """Rectangles of the response's tokens, and ``mask``."""
    longest = max(len(row["policy"]) for row in rows)
    result = {
        new: np.array([[*row[old], *[filler] * (longest - len(row[old]))] for row in rows])
        for old, new in names.items()
    }
    result["mask"] = np.array(
        [[1] * len(r["policy"]) + [0] * (longest - len(r["policy"])) for r in rows]
    )
    return result


PLAIN = {
    "policy": "logprobs",
    "sampler": "rollout_logprobs",
    "reference": "ref_logprobs",
    "tokens": "tokens",
    "prompt": "prompt",
    "reward": "reward",
    "step": "step",
}
ARRAYS = {"policy": "logprobs", "sampler": "rollout_logprobs", "tokens": "tokens"}


def plain_jsonl(folder: Path, rows: list[dict]) -> Path:
    return jsonl(folder / "plain.jsonl", renamed(rows, **PLAIN))


def plain_gz(folder: Path, rows: list[dict]) -> Path:
    path = folder / "plain.jsonl.gz"
    path.write_bytes(gzip.compress(plain_jsonl(folder, rows).read_bytes()))
    return path


def plain_zst(folder: Path, rows: list[dict]) -> Path:
    path = folder / "plain.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(plain_jsonl(folder, rows).read_bytes())
    return path


def json_rows(folder: Path, rows: list[dict]) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(renamed(rows, **PLAIN)))
    return path


def json_columns(folder: Path, rows: list[dict]) -> Path:
    path = folder / "columns.json"
    path.write_text(json.dumps({new: [row[old] for row in rows] for old, new in PLAIN.items()}))
    return path


def wandb_table(folder: Path, rows: list[dict]) -> Path:
    path = folder / "media.table.json"
    data = [[row[old] for old in PLAIN] for row in rows]
    path.write_text(json.dumps({"columns": list(PLAIN.values()), "data": data}))
    return path


def parquet(folder: Path, rows: list[dict]) -> Path:
    path = folder / "plain.parquet"
    pd.DataFrame(renamed(rows, **PLAIN)).to_parquet(path, row_group_size=7)
    return path


def csv(folder: Path, rows: list[dict]) -> Path:
    path = folder / "plain.csv"
    pd.DataFrame(renamed(rows, **PLAIN)).to_csv(path, index=False)
    return path


def save_to_disk(folder: Path, rows: list[dict]) -> Path:
    path = folder / "saved"
    datasets.Dataset.from_list(renamed(rows, **PLAIN)).save_to_disk(path, num_shards=3)
    return path


def npz(folder: Path, rows: list[dict]) -> Path:
    path = folder / "padded.npz"
    np.savez(path, **padded(rows, ARRAYS), note=np.array(["not read"], dtype=object))
    return path


def flat_npz(folder: Path, rows: list[dict]) -> Path:
    path = folder / "flat.npz"
    flat = {new: np.concatenate([row[old] for row in rows]) for old, new in ARRAYS.items()}
    np.savez_compressed(path, **flat, lengths=np.array([len(row["policy"]) for row in rows]))
    return path


def tensors(folder: Path, rows: list[dict]) -> Path:
    path = folder / "padded.safetensors"
    safetensors.numpy.save_file(padded(rows, ARRAYS), path)
    return path


def torch_tensors(folder: Path, rows: list[dict]) -> Path:
    """What OpenRLHF's ``Experience`` holds, as a dict of its tensors."""
    names = {
        "policy": "action_log_probs",
        "sampler": "rollout_log_probs",
        "reference": "base_action_log_probs",
    }
    path = folder / "experience.pt"
    arrays = {name: torch.as_tensor(each) for name, each in padded(rows, names).items()}
    arrays["action_mask"] = arrays.pop("mask").bool()
    prompts = torch.full((len(rows), 6), 7)
    tokens = torch.as_tensor(padded(rows, {"tokens": "tokens"})["tokens"])
    arrays["sequences"] = torch.cat([prompts, tokens], dim=1)  # the prompt's ids and the response's
    arrays["rewards"] = torch.tensor([row["reward"] for row in rows])
    torch.save(arrays, path)
    return path


def long_parquet(folder: Path, rows: list[dict]) -> Path:
    """A row a token, grouped by an id."""
    path = folder / "tokens.parquet"
    long_rows(rows).to_parquet(path, row_group_size=11)
    return path


def long_csv_shuffled(folder: Path, rows: list[dict]) -> Path:
    path = folder / "tokens.csv"
    long_rows(rows).sample(frac=1.0, random_state=1).to_csv(path, index=False)
    return path


def long_rows(rows: list[dict]) -> pd.DataFrame:
    names = ("policy", "sampler", "tokens")
    return pd.DataFrame(
        {"rollout_id": f"r{i}", "position": t, "reward": row["reward"], "step": row["step"]}
        | {
            new: row[old][t]
            for old, new in zip(names, ("logprob", "sampler_logprob", "token_id"), strict=True)
        }
        for i, row in enumerate(rows)
        for t in range(len(row["policy"]))
    )


def verl(folder: Path, rows: list[dict]) -> Path:
    """Tensors of verl's ``DataProto.batch``, padded on the right, a list a row."""
    names = {
        "old": "old_log_probs",
        "sampler": "rollout_log_probs",
        "reference": "ref_log_prob",
        "tokens": "responses",
    }
    arrays = padded(rows, names)
    arrays["response_mask"] = arrays.pop("mask")
    scores = np.zeros(arrays["responses"].shape)
    scores[:, 0] = [row["reward"] for row in rows]
    arrays["token_level_scores"] = scores
    path = folder / "7.jsonl"
    return jsonl(path, [{k: v[i].tolist() for k, v in arrays.items()} for i in range(len(rows))])


def whole(row: dict, values: list[float], before: float = 0.0) -> list[float]:
    """Over the prompt's tokens and the response's."""
    return [before] * len(row["prompt"]) + values


def nemo_rl(folder: Path, rows: list[dict]) -> Path:
    """NeMo-RL's ``Logger.log_batched_dict_as_jsonl``: batches of one, prompts and responses padded to one length."""
    longest = max(len(row["prompt"]) + len(row["policy"]) for row in rows)

    def filled(row: dict, values: list, filler: float = 0.0) -> list[list]:
        return [[*values, *[filler] * (longest - len(values))]]

    made = [
        {
            "content": ["text"],
            "rewards": [row["reward"]],
            "input_lengths": [len(whole(row, row["policy"]))],
            "token_ids": filled(row, row["prompt"] + row["tokens"], 0),
            "sample_loss_mask": [1.0],
            "token_loss_mask": filled(row, whole(row, [1.0] * len(row["policy"]))),
            "advantages": filled(row, whole(row, [0.5] * len(row["policy"]))),
            "generation_logprobs": filled(row, whole(row, row["sampler"])),
            "prev_logprobs": filled(row, whole(row, row["old"])),
            "idx": i,
        }
        for i, row in enumerate(rows)
    ]
    return jsonl(folder / "train_data_step7.jsonl", made)


def prime_rl(folder: Path, rows: list[dict]) -> Path:
    """prime-rl's ``TokenExporter``: ``token_exports/step_N/rank_R.jsonl``, prompts and responses, null where not finite."""
    (folder / "token_exports" / "step_7").mkdir(parents=True, exist_ok=True)
    made = [
        {
            "schema_version": 1,
            "step": row["step"],
            "rank": 0,
            "micro_step": 0,
            "micro_sequence_idx": i,
            "export_sequence_idx": i,
            "env_name": "toy",
            "token_ids": row["prompt"] + row["tokens"],
            "position_ids": list(range(len(row["prompt"] + row["tokens"]))),
            "loss_mask": whole(row, [True] * len(row["policy"]), False),
            "advantages": whole(row, [1.0] * len(row["policy"])),
            "inference_logprobs": whole(row, row["sampler"]),
            "trainer_logprobs": whole(row, row["policy"], None),
            "entropy": whole(row, [0.1] * len(row["policy"])),
            "mismatch_kl": whole(row, [0.0] * len(row["policy"])),
            "is_masked": whole(row, [False] * len(row["policy"]), False),
        }
        for i, row in enumerate(rows)
    ]
    return jsonl(folder / "token_exports" / "step_7" / "rank_0.jsonl", made)


def verifiers(folder: Path, rows: list[dict]) -> Path:
    """An episode a line with traces of nodes, as prime-rl's ``FileMonitor`` writes; only sampled tokens have numbers."""
    nodes = [
        {
            "message": {"role": "assistant"},
            "token_ids": row["prompt"] + row["tokens"],
            "mask": whole(row, [True] * len(row["policy"]), False),
            "logprobs": row["sampler"],
            "reference_logprobs": row["reference"],
            "trainer_logprobs": row["policy"],
        }
        for row in rows
    ]
    made = [
        {"id": f"e{i}", "traces": [{"id": f"t{i}", "nodes": nodes[i : i + 4]}]}
        for i in range(0, len(rows), 4)
    ]
    (folder / "step_7").mkdir(exist_ok=True)
    return jsonl(folder / "step_7" / "traces.jsonl", made)


def slime(folder: Path, rows: list[dict]) -> Path:
    """slime's ``save_debug_train_data``: rows of tensors under ``samples``; only ids are of the prompt too."""
    samples = [
        {
            "data_parallel_rank": 0,
            "sample_index": i,
            "tokens": torch.tensor(row["prompt"] + row["tokens"]),
            "response_lengths": len(row["policy"]),
            "total_lengths": len(row["prompt"] + row["tokens"]),
            "loss_masks": torch.ones(len(row["policy"]), dtype=torch.int),
            "rewards": row["reward"],
            "log_probs": torch.tensor(row["policy"], dtype=torch.float64),
            "ref_log_probs": torch.tensor(row["reference"], dtype=torch.float64),
            "rollout_log_probs": torch.tensor(row["sampler"], dtype=torch.float64),
        }
        for i, row in enumerate(rows)
    ]
    path = folder / "7.pt"
    torch.save(
        {"format_version": 2, "rollout_id": 7, "rank": 0, "samples": samples, "dp_shards": []}, path
    )
    return path


def entries(values: list[float], tokens: list[int], made) -> list:
    return [made(x, token) for x, token in zip(values, tokens, strict=True)]


def openai_chat(folder: Path, rows: list[dict]) -> Path:
    """Responses of OpenAI's interface, two choices each, and the trainer's log-probabilities beside each choice."""

    def content(x: float, token: int) -> dict:
        return {
            "token": f"t{token}",
            "logprob": x,
            "bytes": None,
            "top_logprobs": [{"token": "other", "logprob": -0.001}],
        }

    made = [
        {
            "id": f"cmpl-{i}",
            "object": "chat.completion",
            "messages": [{"role": "user", "content": str(i)}],
            "choices": [
                {
                    "index": k,
                    "logprobs": {"content": entries(row["sampler"], row["tokens"], content)},
                    "finish_reason": "stop",
                    "trainer_logprobs": row["policy"],
                    "token_ids": row["tokens"],
                }
                for k, row in enumerate(rows[i : i + 2])
            ],
        }
        for i in range(0, len(rows), 2)
    ]
    return jsonl(folder / "chat.jsonl", made)


def openai_completions(folder: Path, rows: list[dict]) -> Path:
    made = [
        {
            "choices": [
                {
                    "text": "x",
                    "logprobs": {
                        "tokens": ["a"] * len(r["tokens"]),
                        "token_logprobs": r["sampler"],
                        "text_offset": [0] * len(r["tokens"]),
                    },
                }
            ],
            "policy_logprobs": r["policy"],
        }
        for r in rows
    ]
    return jsonl(folder / "completions.jsonl", made)


def vllm(folder: Path, rows: list[dict]) -> Path:
    """vLLM's ``RequestOutput`` as plain data: by token id, the sampled one first or not."""

    def step(x: float, token: int) -> dict:
        other = {"logprob": -0.001, "rank": 1, "decoded_token": "o"}
        own = {"logprob": x, "rank": 2, "decoded_token": "s"}
        return {"77": other, str(token): own} if token % 2 else {str(token): own, "77": other}

    made = [
        {
            "prompt": str(row["prompt"]),
            "prompt_token_ids": row["prompt"],
            "trainer_logprobs": row["policy"],
            "outputs": [
                {
                    "index": 0,
                    "token_ids": row["tokens"],
                    "logprobs": entries(row["sampler"], row["tokens"], step),
                }
            ],
        }
        for row in rows
    ]
    return jsonl(folder / "vllm.jsonl", made)


def vllm_prompt(folder: Path, rows: list[dict]) -> Path:
    """vLLM's ``prompt_logprobs`` of a text that was scored: null first, and one more than the trainer's."""
    made = [
        {
            "prompt_logprobs": [
                None,
                *(
                    {str(t): {"logprob": x}}
                    for x, t in zip(row["sampler"], row["tokens"], strict=True)
                ),
            ],
            "trainer_logprobs": row["policy"],
        }
        for row in rows
    ]
    return jsonl(folder / "scored.jsonl", made)


def sglang(folder: Path, rows: list[dict]) -> Path:
    made = [
        {
            "text": "x",
            "trainer_logprobs": row["policy"],
            "meta_info": {
                "id": str(i),
                "weight_version": "3",
                "output_token_logprobs": entries(
                    row["sampler"], row["tokens"], lambda x, token: [x, token, None]
                ),
            },
        }
        for i, row in enumerate(rows)
    ]
    return jsonl(folder / "sglang.jsonl", made)


def token_logprob(folder: Path, rows: list[dict]) -> Path:
    made = [
        {
            "policy_logprobs": row["policy"],
            "sampler_logprobs": entries(
                row["sampler"], row["tokens"], lambda x, token: {"token": f"t{token}", "logprob": x}
            ),
        }
        for row in rows
    ]
    return jsonl(folder / "entries.jsonl", made)


def by_id(folder: Path, rows: list[dict]) -> Path:
    made = [
        {
            "policy_logprobs": row["policy"],
            "sampler_logprobs": entries(
                row["sampler"], row["tokens"], lambda x, token: {str(token): x}
            ),
        }
        for row in rows
    ]
    return jsonl(folder / "ids.jsonl", made)


def nested_parquet(folder: Path, rows: list[dict]) -> Path:
    """Engine's entries as structs of Parquet, within an object."""
    made = [
        {
            "policy_logprobs": row["policy"],
            "response": {
                "logprobs": {
                    "content": entries(
                        row["sampler"],
                        row["tokens"],
                        lambda x, token: {"token": f"t{token}", "logprob": x},
                    )
                }
            },
        }
        for row in rows
    ]
    path = folder / "nested.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(made), path)
    return path


def nulls(folder: Path, rows: list[dict]) -> Path:
    """Padded with null at the end, which needs no mask."""
    made = [
        {
            "logprobs": row["policy"] + [None] * 3,
            "sampling_logprobs": row["sampler"] + [math.nan] * 3,
        }
        for row in rows
    ]
    return jsonl(folder / "nulls.jsonl", made)


def lengths_only(folder: Path, rows: list[dict]) -> Path:
    """Padded with 0, and only the number of tokens says where the response ends."""
    made = [
        {
            "logprobs": row["policy"] + [0.0] * 3,
            "sampling_logprobs": row["sampler"] + [0.0] * 3,
            "completion_length": len(row["policy"]),
        }
        for row in rows
    ]
    return jsonl(folder / "lengths.jsonl", made)


WRITERS = {
    each.__name__: each
    for each in (
        plain_jsonl,
        plain_gz,
        plain_zst,
        json_rows,
        json_columns,
        wandb_table,
        parquet,
        csv,
        save_to_disk,
        npz,
        flat_npz,
        tensors,
        torch_tensors,
        long_parquet,
        long_csv_shuffled,
        verl,
        nemo_rl,
        prime_rl,
        verifiers,
        slime,
        openai_chat,
        openai_completions,
        vllm,
        vllm_prompt,
        sglang,
        token_logprob,
        by_id,
        nested_parquet,
        nulls,
        lengths_only,
    )
}
