"""Advice on a cause, in words and in the options of a trainer."""

from __future__ import annotations

from collections.abc import Sequence

from klbench import trainers
from klbench.doctor.findings import Cause
from klbench.trainers import remedies

WORDS = {
    "healthy": "Nothing to do.",
    "temperature": "Score at the temperature of sampling: divide the trainer's logits by it, for "
    "policy and reference alike.",
    "top_p": "Sample without top-p, or weight by the sampler's renormalised log-probabilities "
    "and expect the kept mass as mean ratio; k3 is wrong here, k1 is right.",
    "top_k": "Sample without top-k, or weight by the sampler's renormalised log-probabilities "
    "and expect the kept mass as mean ratio; k3 is wrong here, k1 is right.",
    "low_precision": "Compute logits and log-softmax in float32 on both sides if the noise "
    "matters; at this size it does not change the gradient.",
    "quantised": "Sample with the weights that are trained, or correct by the ratio of trainer "
    "to sampler.",
    "stale_weights": "Update the engine's weights more often, lower the number of updates a "
    "batch, or correct by the ratio of trainer to sampler.",
    "wrong_weights": "Check which checkpoint the engine has loaded: what sampled is another "
    "model than what is trained.",
    "dropout": "Put the model in eval mode, or set its dropout to 0, when log-probabilities are "
    "computed.",
    "adapter_not_merged": "Merge the adapter into the engine's weights, or load it there; what "
    "sampled is the reference.",
    "padding_counted": "Give the mask of the response (--map mask=COLUMN), and leave padding out "
    "of every sum and mean.",
    "end_token_dropped": "Count the end token: its log-ratio is part of the sequence's, so the "
    "mask must be alive before the token, not after it.",
    "shifted_by_one": "Shift logits and labels by one on both sides: the logits at t - 1 predict "
    "the token at t.",
    "template_or_prefix": "Compare the prompt's token ids on both sides: a begin-of-text token, "
    "a chat template or its generation prompt differs.",
    "columns_swapped": "Turn the columns around (--map policy=..., reference=...), and the same "
    "in the loss.",
    "not_logprobs": "Log natural log-probabilities, which are never above 0: take the log, or "
    "turn the sign.",
    "wrong_log_base": "Log natural logarithms: multiply by ln 2 = .693147 (base 2) or ln 10 = "
    "2.302585 (base 10).",
    "outlier_tokens": "Look at the rows that are named; leave them out, or mask tokens whose "
    "ratio is far out.",
    "reference_lacks_support": "The reference as good as never says these tokens: teach it the "
    "format first, mask them, or use an estimator that is bounded.",
    "unknown": "Compare one rollout by hand: its token ids, the prompt, and both "
    "log-probabilities, token by token.",
}
"""One sentence a cause."""


def check(trainer: str) -> None:
    """Check that a trainer is one that is known, by any of its names.

    Raises
    ------
    ConfigError
        It is not, with the nearest.
    """
    if trainer:
        trainers.get(trainer)


def sentences(causes: Sequence[Cause], trainer: str, *, alarm: bool) -> list[str]:
    """Return what to do about the first cause, and the second if nearly as likely."""
    near = [each for each in causes[:2] if each.score > 0.8 * causes[0].score]
    said = []
    for each in near:
        if each.name == "healthy" and len(near) > 1:
            continue
        options = remedies.of(trainer).get(each.name, "") if trainer else ""
        said.append(WORDS[each.name] + (f" In {trainer}: {options}." if options else ""))
    if not alarm and causes[0].name != "healthy":
        said.append("It has no consequence that would need it today.")
    return said
