"""Prompts that several completions answer: large models pass through each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from klbench.lm.model import LanguageModel, accepted


@dataclass(frozen=True)
class Packed:
    """Each prompt once, in a row of its own, and all of its completions after it.

    The last token of a completion predicts nothing and is left out.

    Parameters
    ----------
    ids, positions
        Tokens, and how far each is from the beginning of its own sequence, ``(rows, L)``.
    owner
        Whose each token is, ``(rows, L)``: 0 the prompt's or padding, else a completion's number.
    places
        Where each token that counts is predicted, in ``ids`` laid flat, ``(counted,)``.
    """

    ids: np.ndarray
    positions: np.ndarray
    owner: np.ndarray
    places: np.ndarray

    @property
    def visible(self) -> Tensor:
        """Which tokens each token sees: the earlier ones of prompt and own completion.

        ``(rows, 1, L, L)``.
        """
        owner = torch.from_numpy(self.owner)
        mine = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
        return mine.tril()[:, None]


def cacheable(lm: LanguageModel) -> bool:
    """Return whether a model goes on from a cache to which every earlier token is known.

    A layer with a window or a state of its own would count the padding.
    """
    needed = {"position_ids", "past_key_values", "logits_to_keep", "attention_mask"}
    if not needed <= accepted(type(lm.model).forward):
        return False
    layers = DynamicCache(config=lm.model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], Tensor]:
    """Return each prompt once, and which of them each of ``prompts`` is, ``(n,)``."""
    place: dict[tuple[int, ...], int] = {}
    which = [place.setdefault(tuple(each), len(place)) for each in prompts]
    return list(place), torch.tensor(which)


def packable(lm: LanguageModel) -> bool:
    """Return whether a model goes by positions and masks as given: it takes :class:`Packed`."""
    config = lm.model.config
    return (
        config._attn_implementation == "sdpa"
        and not getattr(config, "alibi", False)
        and cacheable(lm)
    )


def packed(
    prompts: Sequence[Sequence[int]], token: np.ndarray, mask: np.ndarray, pad: int
) -> Packed:
    """Pack completions ``token``, shape ``(n, T)``, of which ``mask`` counts, after their
    prompts.
    """
    once, which = distinct(prompts)
    rows = [[(each, t, 0) for t, each in enumerate(prompt)] for prompt in once]
    places = []
    for i, r in enumerate(which.tolist()):
        row, answer, first = rows[r], token[i][mask[i]].tolist(), len(once[r])
        places += [(r, first - 1 if t == 0 else len(row) + t - 1) for t in range(len(answer))]
        row += [(each, first + t, i + 1) for t, each in enumerate(answer[:-1])]
    width = max(map(len, rows))
    ids, positions, owner = np.moveaxis(
        np.array([[*row, *[(pad, 0, 0)] * (width - len(row))] for row in rows]), -1, 0
    )
    return Packed(ids, positions, owner, np.array([r * width + t for r, t in places], dtype=int))


def cheaper(lm: LanguageModel, found: Packed, lengths: Sequence[int]) -> bool:
    """Return whether packed rows cost a model less than a row for each sequence.

    A token of a row of L costs about ``12 width^2 + 4 L width`` a layer.
    """
    own = 3 * lm.model.get_input_embeddings().weight.shape[1]
    longest, width = max(lengths), found.ids.shape[1]
    return bool(found.ids.size * (own + width) < len(lengths) * longest * (own + longest))


def packed_logits(lm: LanguageModel, found: Packed) -> Tensor:
    """Return the logits that predict the tokens that count, ``(counted, vocabulary)``.

    The output layer sees no other place.
    """
    places = torch.from_numpy(found.places).to(lm.device)

    def chosen(_: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0].flatten(0, 1)[places][None], *given[1:])

    hook = lm.model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        logits: Tensor = lm.model(
            input_ids=torch.from_numpy(found.ids).to(lm.device),
            attention_mask=found.visible.to(lm.device),
            position_ids=torch.from_numpy(found.positions).to(lm.device),
            use_cache=False,
        ).logits
    finally:
        hook.remove()
    return logits[0]
