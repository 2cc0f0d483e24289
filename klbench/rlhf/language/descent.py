"""AdamW down a loss, with what every loop here wants of it.

A clip, a rate that falls, and a stop where numbers fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Descent:
    """torch's AdamW without weight decay, on some parameters.

    A loss or a gradient that is not finite ends it: the parameters stay what they were, and
    ``cause`` says why.

    Parameters
    ----------
    rate, clip
        Learning rate, and the largest norm of a gradient (None: any).
    steps
        The rate falls to 0 along a line over so many steps; None: it stays.
    fused
        Whether a step is one pass over memory, which rounds otherwise.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        rate: float,
        clip: float | None,
        steps: int | None,
        *,
        fused: bool = False,
    ) -> None:
        self.parameters, self.rate, self.clip, self.steps = list(parameters), rate, clip, steps
        self.fused = fused
        self.adam = torch.optim.AdamW(
            self.parameters, lr=rate, weight_decay=0.0, fused=fused or None
        )
        self.taken = 0
        self.cause: tuple[int, str] | None = None
        """The update at which it ended, and why."""

    def step(self, loss: Tensor, update: int) -> None:
        """One step down a loss of one number."""
        if self.cause is not None:
            return
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        for what, value in (("the loss", loss.detach()), ("the gradient's norm", norm)):
            if not bool(value.isfinite()):
                self.cause = update, f"{what} is {float(value):g}"
                return
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        left = 1.0 if self.steps is None else 1.0 - self.taken / self.steps
        for group in self.adam.param_groups:
            group["lr"] = self.rate * left
        self.adam.step()
        self.adam.zero_grad(set_to_none=self.fused)  # no forward pass holds the old gradients
        self.taken += 1

    def tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`restore` needs.

        Adam's moments and step counts, by the number of the parameter.
        """
        state = self.adam.state_dict()["state"]
        return {f"{k}.{name}": value for k, each in state.items() for name, value in each.items()}

    def restore(self, tensors: dict[str, Tensor], taken: int, cause: Sequence[Any] | None) -> None:
        """Go on from there."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            k, _, name = key.partition(".")
            state.setdefault(int(k), {})[name] = value
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state})
        self.taken, self.cause = taken, None if cause is None else (int(cause[0]), str(cause[1]))
