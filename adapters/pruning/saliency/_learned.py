"""Saliencies with a learned number for each weight, which has an optimizer of its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ._base import Saliency


class LearnedSaliency(Saliency):
    """A number for each weight, learned by Adam along with the network; see `Saliency`."""

    trained: ClassVar[bool] = True
    lr: float

    def initial(self, w: Tensor) -> Tensor:
        raise NotImplementedError

    def start(self, weights, n_records, n_steps):
        self._extra = {
            name: self.initial(w.detach()).requires_grad_() for name, w in weights.items()
        }
        self._optimizer = torch.optim.Adam(list(self._extra.values()), lr=self.lr)

    def after_step(self, weights, lr):
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self):
        extra = {name: value.detach() for name, value in self._extra.items()}
        return {"extra": extra, "optimizer": self._optimizer.state_dict()}

    def load(self, state):
        with torch.no_grad():
            for name, value in state["extra"].items():
                self._extra[name].copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
