r"""What a trained network remembers of its data: the statistics of its batch normalisations.

Images are synthesised so that the inputs of every normalisation l have, over records and places, its running mean and variance:

.. math:: L = \sum_l \frac{1}{C_l}\left(\|\mu_l^s - \mu_l\|^2 + \|\sigma_l^s - \sigma_l\|^2\right),
   \qquad \sigma = \sqrt{\mathrm{var} + \epsilon_l},

with the variance of the batch without bias and each network's own epsilon. Even exact samples leave :math:`\tfrac{3}{2} \sigma^2 / N` a channel, N values each: a
loss much below that is no success but an over-fitted batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from .tracing import batch_norms, module_of


def bns_loss(x: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5) -> Tensor:
    """How far the statistics of a batch are from those that a normalisation has kept.

    Parameters
    ----------
    x : Tensor of shape (n_records, n_channels, ...)
        Input of the normalisation.
    mean, var : Tensor of shape (n_channels,)
        Its running mean and variance.
    eps : float, default=1e-5
        The normalisation's own.

    Returns
    -------
    Tensor, a number
        Squared distances of means and of standard deviations, averaged over channels.

    Raises
    ------
    ValueError
        If a channel has fewer than two values.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> bns_loss(x, torch.tensor([2.0]), torch.tensor([2.0]))
    tensor(0.)
    """
    values = x.transpose(0, 1).flatten(1)
    if values.shape[1] < 2:
        raise ValueError(f"x must hold at least two values a channel, got shape {tuple(x.shape)}")
    spread = (values.var(1) + eps).sqrt() - (var + eps).sqrt()
    return ((values.mean(1) - mean).square() + spread.square()).mean()


def per_image_loss(x: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5) -> Tensor:
    """The same with the statistics of every record alone, summed over channels (ZeroQ)."""
    if x.shape[2:].numel() < 2 or x.ndim < 3:
        raise ValueError(
            'data="zeroq" matches statistics of single images; this network normalises single values: use another'
        )
    values = x.flatten(2)
    spread = (values.var(2) + eps).sqrt() - (var + eps).sqrt()
    return ((values.mean(2) - mean).square() + spread.square()).sum(1).mean()


def image_loss(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """How far every record's own mean and deviation, channel by channel, are from those of real inputs."""
    values = x.flatten(2) if x.ndim > 2 else x[:, None]
    moved = (values.mean(2) - mean).square() + ((values.var(2) + 1e-8).sqrt() - std).square()
    return moved.sum(1).mean()


class Teacher:
    """A frozen network that says how far a batch is from its statistics.

    Parameters
    ----------
    network : GraphModule
        In evaluation mode, so that its running statistics stay.

    Attributes
    ----------
    layers : list of str
        Names of the batch normalisations.
    """

    def __init__(self, network: fx.GraphModule):
        self.network = network
        nodes = batch_norms(network)
        self.norms = [module_of(network, node) for node in nodes]
        self.layers = [node.target for node in nodes]

    def losses(self, x: Tensor, loss=bns_loss) -> Tensor:
        """The loss at every normalisation, shape (n_layers,)."""
        seen: list[Tensor] = []

        def keep(
            norm, inputs
        ):  # before the call, so that the input is what it reads; returns nothing
            seen.append(loss(inputs[0], norm.running_mean, norm.running_var, norm.eps))

        handles = [norm.register_forward_pre_hook(keep) for norm in self.norms]
        try:
            self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(seen)

    @torch.no_grad()
    def describe(self, x: Tensor) -> dict[str, float]:
        """The loss of a batch at every normalisation, by name."""
        return dict(zip(self.layers, self.losses(x).tolist(), strict=True))


def as_input_stats(
    value: Sequence | str, n_channels: int
) -> tuple[Tensor | None, Tensor | None, tuple[float, float] | None]:
    """Mean, deviation and range of real inputs from the parameter ``input_stats``.

    Parameters
    ----------
    value : "free", (mean, std) or (mean, std, low, high)
        Mean and std: numbers, or one a channel.
    n_channels : int

    Returns
    -------
    mean, std : Tensor of shape (n_channels,) or (1,), or None
    limits : (float, float) or None
    """
    if isinstance(value, str):
        if value == "free":
            return None, None, None
    elif isinstance(value, Sequence) and len(value) in (2, 4):
        mean, std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1) for v in value[:2])
        fits = all(len(v) in (1, n_channels) and torch.isfinite(v).all() for v in (mean, std))
        limits = None if len(value) == 2 else (float(value[2]), float(value[3]))
        if fits and (std > 0).all() and (limits is None or limits[0] < limits[1]):
            return mean, std, limits
    raise ValueError(
        'input_stats must be "free", (mean, std) or (mean, std, low, high) with positive std, numbers or one a channel '
        f"({n_channels}), got {value!r}"
    )
