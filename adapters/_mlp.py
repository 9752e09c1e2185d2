"""The default module of the adapters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from statml._validation import check_integer, check_sequence


class MLP(nn.Module):
    """Multilayer perceptron with ReLU units; flattens what comes in.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Of the data, if not given.
    hidden : sequence of int, default=(100,)
        Widths of the hidden layers; () is a linear model.
    dropout : float, default=0.0
        Share of units left out in training.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters import MLP
    >>> MLP(4, 3, hidden=(8,))(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, hidden: Sequence[int] = (100,), dropout: float = 0.0
    ):
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = n_inputs
        for units in check_sequence("hidden", hidden, "integers"):
            units = check_integer("hidden", units, low=1)
            layers += [nn.Linear(width, units), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def forward(self, X: Tensor) -> Tensor:
        return self.layers(X)
