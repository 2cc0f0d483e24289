"""Small autoregressive policies in float64, as functions of their weights.

Everything about them can be differentiated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from klbench.policies import Name
from klbench.policies.tree import Tree

Weights = dict[str, "Tensor"]


class Policy(ABC):
    """A policy's shape: which weights it has, and how logits follow from them.

    Parameters
    ----------
    tree
        The sequences it is defined on.
    prompts
        Number of prompts.
    width
        Size of embeddings and states.
    """

    name: ClassVar[Name]

    def __init__(self, tree: Tree, prompts: int, width: int) -> None:
        self.tree, self.prompts, self.width = tree, prompts, width
        self.shapes = {name: shape for name, (shape, _) in self.layout().items()}
        self.parameters = sum(math.prod(shape) for shape in self.shapes.values())

    @abstractmethod
    def layout(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and initial standard deviation of each weight, in the order of the parameter
        vector.
        """

    @abstractmethod
    def along(self, weights: Weights, prompts: Tensor, tokens: Tensor) -> Tensor:
        """Logits before and after each token.

        Prompts ``(n,)`` and tokens ``(n, t)`` to ``(n, t + 1, tokens)``.
        """

    def everywhere(self, weights: Weights, prompts: Tensor) -> Tensor:
        """Logits at all inner prefixes: prompts ``(b,)`` to ``(b, nodes, tokens)``."""
        last = self.tree.horizon - 1
        deepest = self.tree.prefixes(last)
        logits = self.along(
            weights, prompts.repeat_interleave(len(deepest)), deepest.repeat(len(prompts), 1)
        )
        logits = logits.view(len(prompts), len(deepest), last + 1, -1)
        steps = [
            logits[:, :: self.tree.vocabulary ** (last - depth), depth] for depth in range(last + 1)
        ]
        return torch.cat(steps, dim=1)

    def steps(self, weights: Weights, prompts: Tensor) -> Generator[Tensor, Tensor, None]:
        """Yield logits ``(n, tokens)`` of the next token, and take that token, ``(n,)``."""
        tokens = prompts[:, None][:, :0]
        while True:
            token = yield self.along(weights, prompts, tokens)[:, -1]
            tokens = torch.cat([tokens, token[:, None]], dim=1)

    def random(self, stream: np.random.Generator) -> np.ndarray:
        """Parameters ``(parameters,)`` as large as initial ones.

        Neither near uniform nor near certain.
        """
        stds = [np.full(math.prod(shape), std) for shape, std in self.layout().values()]
        result: np.ndarray = stream.standard_normal(self.parameters) * np.concatenate(stds)
        return result

    def split(self, theta: Tensor) -> Weights:
        """The weights as views into a parameter vector."""
        parts = torch.split(theta, [math.prod(shape) for shape in self.shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Table(Policy):
    """A logit of its own for each token after each prefix of each prompt."""

    name = "table"

    def layout(self) -> dict[str, tuple[tuple[int, ...], float]]:
        return {"logits": ((self.prompts, self.tree.nodes, self.tree.tokens), 1.3)}

    def along(self, weights: Weights, prompts: Tensor, tokens: Tensor) -> Tensor:
        nodes = [torch.zeros_like(prompts)]
        for depth in range(tokens.shape[1]):
            nodes.append(self.tree.child(nodes[-1], tokens[:, depth], depth))
        return weights["logits"][prompts[:, None], torch.stack(nodes, dim=1)]

    def everywhere(self, weights: Weights, prompts: Tensor) -> Tensor:
        return weights["logits"][prompts]


class Gru(Policy):
    """A gated recurrent unit: the prompt is its first state."""

    name = "gru"

    def layout(self) -> dict[str, tuple[tuple[int, ...], float]]:
        w, inner = self.width, 1.0 / math.sqrt(self.width)
        return {
            "prompt": ((self.prompts, w), 1.0),
            "token": ((self.tree.vocabulary, w), 1.0),
            "input": ((3 * w, w), 1.5 * inner),
            "state": ((3 * w, w), 1.5 * inner),
            "bias": ((3 * w,), 0.1),
            "readout": ((self.tree.tokens, w), 2.0 * inner),
            "readout_bias": ((self.tree.tokens,), 0.3),
        }

    @staticmethod
    def _next(weights: Weights, state: Tensor, inputs: Tensor) -> Tensor:
        """``(..., width)`` and ``(..., 3 width)`` to the next state."""
        update, reset, new = inputs.chunk(3, dim=-1)
        from_update, from_reset, from_new = (state @ weights["state"].T).chunk(3, dim=-1)
        keep = torch.sigmoid(update + from_update)
        candidate = torch.tanh(new + torch.sigmoid(reset + from_reset) * from_new)
        return candidate + keep * (state - candidate)

    @staticmethod
    def _inputs(weights: Weights) -> Tensor:
        return weights["token"] @ weights["input"].T + weights["bias"]

    @staticmethod
    def _logits(weights: Weights, states: Tensor) -> Tensor:
        return states @ weights["readout"].T + weights["readout_bias"]

    def along(self, weights: Weights, prompts: Tensor, tokens: Tensor) -> Tensor:
        states = [weights["prompt"][prompts]]
        for inputs in self._inputs(weights)[tokens].unbind(1):
            states.append(self._next(weights, states[-1], inputs))
        return self._logits(weights, torch.stack(states, dim=1))

    def steps(self, weights: Weights, prompts: Tensor) -> Generator[Tensor, Tensor, None]:
        inputs, state = self._inputs(weights), weights["prompt"][prompts]
        while True:
            token = yield self._logits(weights, state)
            state = self._next(weights, state, inputs[token])

    def everywhere(self, weights: Weights, prompts: Tensor) -> Tensor:
        inputs = self._inputs(weights)
        states = [weights["prompt"][prompts][:, None]]
        for _ in range(self.tree.horizon - 1):
            states.append(self._next(weights, states[-1][:, :, None], inputs).flatten(1, 2))
        return self._logits(weights, torch.cat(states, dim=1))


class Transformer(Policy):
    """One causal block with a single head over the prompt and the tokens so far, positions
    learned, no normalisation.
    """

    name = "transformer"

    def layout(self) -> dict[str, tuple[tuple[int, ...], float]]:
        w, inner = self.width, 1.0 / math.sqrt(self.width)
        return {
            "prompt": ((self.prompts, w), 1.0),
            "token": ((self.tree.vocabulary, w), 1.0),
            "position": ((self.tree.horizon, w), 0.5),
            "attention": ((3 * w, w), 1.2 * inner),
            "mix": ((w, w), inner),
            "up": ((2 * w, w), inner),
            "up_bias": ((2 * w,), 0.1),
            "down": ((w, 2 * w), inner),
            "readout": ((self.tree.tokens, w), 0.8 * inner),
            "readout_bias": ((self.tree.tokens,), 0.3),
        }

    def along(self, weights: Weights, prompts: Tensor, tokens: Tensor) -> Tensor:
        length = tokens.shape[1] + 1
        x = (
            torch.cat([weights["prompt"][prompts][:, None], weights["token"][tokens]], dim=1)
            + weights["position"][:length]
        )
        query, key, value = (x @ weights["attention"].T).chunk(3, dim=-1)
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        attention = (
            (query @ key.mT / math.sqrt(self.width)).masked_fill(ahead, -math.inf).softmax(-1)
        )
        x = x + attention @ value @ weights["mix"].T
        x = x + torch.tanh(x @ weights["up"].T + weights["up_bias"]) @ weights["down"].T
        return x @ weights["readout"].T + weights["readout_bias"]


POLICIES: dict[Name, type[Policy]] = {cls.name: cls for cls in (Table, Gru, Transformer)}
