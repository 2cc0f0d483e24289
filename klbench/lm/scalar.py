"""A causal language model that says a number where it would predict a token.

What a critic and a reward model are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from klbench.lm.model import LanguageModel
from klbench.lm.quiet import quiet
from klbench.lm.scoring import layout
from klbench.types import ConfigError


class Scalar:
    """The layers of a language model, copied, below one linear output.

    Transformers' model for sequence classification.

    Parameters
    ----------
    lm
        Where the layers are from; it is left as it is.

    Raises
    ------
    ConfigError
        transformers has no such model of its architecture.
    """

    def __init__(self, lm: LanguageModel) -> None:
        config = copy.deepcopy(lm.model.config)
        config.num_labels, config.pad_token_id = 1, lm.pad
        try:
            with (
                quiet(),
                torch.random.fork_rng(devices=[]),
            ):  # what is drawn for the output is not kept
                self.model: Any = AutoModelForSequenceClassification.from_config(config)
        except ValueError:
            raise ConfigError(
                f"{lm.name}: transformers has no model with a number as its output for"
                f" {type(config).__name__}"
            ) from None
        self.model.to(lm.device, lm.model.dtype).requires_grad_().eval()
        self.model.base_model.load_state_dict(lm.model.base_model.state_dict())
        self.pad, self.device = lm.pad, lm.device
        torch.nn.init.zeros_(self.model.score.weight)  # whatever it reads, it says 0 at first

    def named_parameters(self) -> dict[str, Tensor]:
        """Return all parameters that are learned, by name."""
        return dict(self.model.named_parameters())

    def before_each(
        self, prompts: Sequence[Sequence[int]], token: np.ndarray, mask: np.ndarray
    ) -> Tensor:
        """Return the output before each token that counts, in the order of ``mask``'s rows.

        ``(counted,)``.
        """
        ids, places = layout(list(prompts), token, mask, self.pad)
        return self._at(ids, places)

    def after_all(
        self, prompts: Sequence[Sequence[int]], token: np.ndarray, mask: np.ndarray
    ) -> Tensor:
        """Return the output after the last token of each completion: ``(n,)``."""
        ids, _ = layout(list(prompts), token, mask, self.pad)
        last = [
            len(prompt) + int(count) - 1
            for prompt, count in zip(prompts, mask.sum(-1), strict=True)
        ]
        return self._at(ids, np.stack([np.arange(len(last)), last], axis=1))

    def _at(self, ids: np.ndarray, places: np.ndarray) -> Tensor:
        x = torch.from_numpy(ids).to(self.device)
        hidden = self.model.base_model(
            input_ids=x, attention_mask=torch.ones_like(x), use_cache=False
        ).last_hidden_state
        row, column = torch.from_numpy(places).to(self.device).unbind(-1)
        result: Tensor = self.model.score(hidden[row, column])[:, 0]
        return result
