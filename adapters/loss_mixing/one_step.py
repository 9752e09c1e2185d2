r"""Meta-gradients of a whole network: how the validation loss after one step depends on the weight of each loss.

.. math::

    g(\lambda) &= \frac1B \sum_{ik} \lambda_{ik} \nabla \ell_{ik}(\theta), \qquad \theta' = \theta - \eta\, g(\lambda), \\
    \frac{\partial L_V(\theta')}{\partial \lambda_{ik}} &= -\frac{\eta}{B} M_{ik}, \qquad
    M_{ik} = \langle v, \nabla \ell_{ik}(\theta) \rangle, \quad v = \nabla L_V(\theta').

Exact for a step of gradient descent. Momentum changes nothing (Nesterov's multiplies all by 1 + mu), weight decay moves theta' only, and a fixed
diagonal preconditioner P turns v into Pv; for Adam P is its own, and the derivative through its second moment is dropped, as is usual.

No gradient of a single record is ever formed. "reverse" differentiates <g(lambda), v> by lambda, through the graph of the one backward pass that
theta' needs anyway; "forward" takes one derivative of all losses in the direction v in forward mode, and needs no backward pass on the batch
if v is taken at theta. Both cost the same for any number K of losses.

Everything runs in evaluation mode and leaves the module as it was: its mode, its buffers, its gradients.

References
----------
Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
losses in supervised learning. AAAI.
Ren, M., Zeng, W., Yang, B. and Urtasun, R. (2018). Learning to reweight examples for robust deep learning. ICML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from statml._validation import check_choice, check_number

from .head import head_alignment, head_direction

METHODS = ("full", "forward", "reverse", "head")
LossFunction = Callable[[Tensor], Tensor]


def meta_gradient(
    module: nn.Module,
    X: Tensor,
    losses: LossFunction,
    weights: Tensor,
    X_val: Tensor,
    y_val: Tensor,
    *,
    lr: float,
    lookahead: float = 1.0,
    method: str = "full",
    val_loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    scale: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Gradient of the validation loss after one step in the weights of all losses of a batch.

    Parameters
    ----------
    module : torch Module
    X : Tensor of shape (B, ...)
    losses : callable
        Takes the outputs for X and returns losses (B, K), one a record.
    weights : Tensor of shape (B, K)
        lambda; the step follows the gradient of ``(weights * losses).sum(1).mean()``.
    X_val : Tensor of shape (m, ...)
    y_val : Tensor of shape (m, ...)
    lr : float
        Learning rate of the step.
    lookahead : float, default=1.0
        Share of the step after which the gradient of the validation loss is taken: 1 is exact, 0 takes it before the step.
    method : {"full", "forward", "reverse", "head"}, default="full"
        "full" takes the cheaper of "forward" and "reverse", which give the same; "head" takes only the last layer as changeable.
    val_loss : callable, default=torch.nn.functional.cross_entropy
        Takes outputs and `y_val` and returns one number.
    scale : dict of str to Tensor, optional
        Diagonal preconditioner of the step, by name of the parameter.

    Returns
    -------
    Tensor of shape (B, K)

    Raises
    ------
    ValueError
        If `losses` returns anything but one row a record, or if method="head" and the network does not end in a linear layer.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters import meta_gradient
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> x, t = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    >>> squared = lambda z: (z - t) ** 2 / 2
    >>> half = lambda z, y: ((z - y) ** 2 / 2).mean()
    >>> one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    >>> meta_gradient(module, x, squared, torch.ones(2, 1).double(), one, zero, lr=0.1, val_loss=half)
    tensor([[-0.0425],
            [-0.0850]], dtype=torch.float64)
    """
    check_choice("method", method, METHODS)
    step = check_number("lr", lr, 0) * check_number("lookahead", lookahead, 0)
    arguments = (
        module,
        X,
        losses,
        weights.detach(),
        X_val,
        lambda z: val_loss(z, y_val),
        step,
        scale,
    )
    with evaluating(module):
        M = _head(*arguments) if method == "head" else alignment(*arguments, method=method)
    return -lr / len(weights) * M


def alignment(
    module: nn.Module,
    X: Tensor,
    losses: LossFunction,
    weights: Tensor,
    X_val: Tensor | None,
    val_loss: LossFunction,
    step: float,
    scale: Mapping[str, Tensor] | None = None,
    method: str = "full",
    direction: dict[str, Tensor] | None = None,
) -> Tensor:
    """M (B, K) of a module in evaluation mode; a `direction` that is known already takes the place of v."""
    if method == "full":
        try:
            method = "reverse" if step else "forward"
            return alignment(
                module, X, losses, weights, X_val, val_loss, step, scale, method, direction
            )
        except (NotImplementedError, RuntimeError) as error:
            if "not implemented" not in str(error) and "forward AD" not in str(error):
                raise
            method = "forward" if step else "reverse"  # an operation knows one of the two only
    parameters = {
        name: p.detach().requires_grad_(p.requires_grad) for name, p in module.named_parameters()
    }
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    buffers = {name: b.clone() for name, b in module.named_buffers()}

    def outputs(changed: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(module, {**parameters, **buffers, **changed}, (inputs,))

    weights = weights.detach().requires_grad_(method == "reverse")
    with torch.enable_grad():
        g = None
        if step or method == "reverse":
            total = (weights * _rows(losses(outputs(trained, X)), len(X))).sum(1).mean()
            g = torch.autograd.grad(total, list(trained.values()), create_graph=method == "reverse")
        v = direction
        if v is None:
            moved = trained
            if step:
                moved = {
                    name: torch.sub(
                        p.detach(),
                        slope.detach() if scale is None else scale[name] * slope.detach(),
                        alpha=step,
                    ).requires_grad_()
                    for (name, p), slope in zip(trained.items(), g, strict=True)
                }
            slopes = torch.autograd.grad(val_loss(outputs(moved, X_val)), list(moved.values()))
            v = dict(zip(moved, slopes, strict=True))
            if scale is not None:
                v = {name: scale[name] * slope for name, slope in v.items()}
        if method == "reverse":
            # the product <g, v>, differentiated by the weights that g is linear in
            along = [v[name] for name in trained]
            return len(X) * torch.autograd.grad(g, weights, grad_outputs=along)[0]
    point = {name: p.detach() for name, p in trained.items()}
    _, M = torch.func.jvp(lambda p: _rows(losses(outputs(p, X)), len(X)), (point,), (v,))
    return M.detach()


def _head(module, X, losses, weights, X_val, val_loss, step, scale) -> Tensor:
    name, layer = last_layer(module, X)
    with torch.no_grad():
        H, z = features(module, layer, X)
        H_val, _ = features(module, layer, X_val)
    W = layer.weight.detach()
    b = W.new_zeros(len(W)) if layer.bias is None else layer.bias.detach()
    with torch.enable_grad():
        z = z.requires_grad_()
        values = _rows(losses(z), len(X))
        gradients = torch.stack(
            [
                torch.autograd.grad(values[:, k].sum(), z, retain_graph=True)[0]
                for k in range(values.shape[1])
            ],
            dim=1,
        )

    def slope(logits: Tensor) -> Tensor:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            return torch.autograd.grad(val_loss(logits), logits)[0]

    if layer.bias is None:
        scale = {f"{name}.bias": torch.zeros_like(b), f"{name}.weight": torch.ones_like(W)} | dict(
            scale or {}
        )
    pair = None if scale is None else (scale[f"{name}.weight"], scale[f"{name}.bias"])
    direction = head_direction(W, b, H, gradients, weights, H_val, slope, step, pair)
    return head_alignment(H, gradients, direction)


def _rows(values: Tensor, n: int) -> Tensor:
    if values.ndim != 2 or len(values) != n:
        raise ValueError(
            f"losses must return one row of losses a record, shape ({n}, K), got {tuple(values.shape)}"
        )
    return values


# --- modules ----------------------------------------------------------------------------------------


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def last_layer(module: nn.Module, X: Tensor) -> tuple[str, nn.Linear]:
    """The linear layer, with its name, whose outputs are those of the module.

    Raises
    ------
    ValueError
        If there is none.
    """
    seen: list[tuple[str, nn.Linear, Tensor]] = []
    handles = [
        part.register_forward_hook(
            lambda layer, _, output, name=name: seen.append((name, layer, output))
        )
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        with evaluating(module), torch.no_grad():
            final = module(X[:2])
    finally:
        for handle in handles:
            handle.remove()
    if seen:
        name, layer, output = seen[-1]
        # the same tensor, or, with mixed precision, a copy in another type
        cast = final.dtype != output.dtype and torch.equal(final.to(output.dtype), output)
        if final is output or cast:
            return name, layer
    raise ValueError(
        'meta="head" and "implicit" need a module whose outputs are those of an nn.Linear; use meta="full" for this one'
    )


def features(
    module: nn.Module, layer: nn.Linear, X: Tensor, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """What goes into the last layer, (n, d), and what comes out, (n, C); in evaluation mode."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    device = layer.weight.device
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    try:
        for part in X.split(batch_size):
            outputs.append(module(part.to(device)).detach())
    finally:
        handle.remove()
    return torch.cat(inputs), torch.cat(outputs)
