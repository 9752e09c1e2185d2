r"""Meta-gradients of a linear layer in closed form: of the last layer of a network, or of the whole of a linear model.

For a batch with inputs H (B, d) of the layer z = W h + b, gradients :math:`\delta_{ik}` of the losses in z and weights lambda,

.. math::

    G_i &= \tfrac1B \sum_k \lambda_{ik} \delta_{ik}, \qquad W' = W - \eta\, G^\top H, \qquad b' = b - \eta\, G^\top 1, \\
    V_W &= D^\top H_V, \quad v_b = D^\top 1, \qquad D = \nabla_z L_V(H_V W'^\top + b'), \\
    M_{ik} &= \langle \delta_{ik}, V_W h_i + v_b \rangle, \qquad
    \frac{\partial L_V(\theta')}{\partial \lambda_{ik}} = -\frac{\eta}{B} M_{ik},

exact for a step of gradient descent, with or without momentum, since the gradients of the losses are those at the old weights. Cost O(B C d).
With the direction :math:`H^{-1} \nabla L_V` in place of :math:`\nabla L_V`, where H is the second derivative of the training objective, the same
product gives the implicit gradient: how the validation loss at the minimum moves (the influence function).

References
----------
Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
losses in supervised learning. AAAI.
Koh, P. W. and Liang, P. (2017). Understanding black-box predictions via influence functions. ICML.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statml.solvers import ConjugateGradientSolver, DirectSolver

from .blocks import exp, log_softmax

Direction = tuple[Any, Any]
DIRECT_SIZE = 1500  # parameters up to which the dense matrix is factored
LEAST_DAMPING = 1e-4  # softmax does not change when a number is added to all logits


def cross_entropy_slope(logits: Any, one_hot: Any) -> Any:
    """Gradient of the mean cross-entropy in the logits (m, C)."""
    return (exp(log_softmax(logits)) - one_hot) / len(logits)


def head_direction(
    W: Any,
    b: Any,
    H: Any,
    gradients: Any,
    weights: Any,
    H_val: Any,
    slope: Callable[[Any], Any],
    step: float,
    scale: Direction | None = None,
) -> Direction:
    """The gradient (V_W, v_b) of the validation loss after a step on a batch.

    Parameters
    ----------
    W : array of shape (C, d)
    b : array of shape (C,)
    H : array of shape (B, d)
    gradients : array of shape (B, K, C)
    weights : array of shape (B, K)
    H_val : array of shape (m, d)
    slope : callable
        The gradient (m, C) of the validation loss in logits (m, C).
    step : float
        eta; 0 gives the gradient where the weights are now.
    scale : (array of shape (C, d), array of shape (C,)), optional
        The diagonal of a preconditioner of the step: that of Adam, say.
    """
    if step:
        G = (weights[:, :, None] * gradients).sum(1) / len(weights)
        gW, gb = G.T @ H, G.sum(0)
        if scale is not None:
            gW, gb = gW * scale[0], gb * scale[1]
        W, b = W - step * gW, b - step * gb
    D = slope(H_val @ W.T + b)
    V_W, v_b = D.T @ H_val, D.sum(0)
    return (V_W, v_b) if scale is None else (V_W * scale[0], v_b * scale[1])


def head_alignment(H: Any, gradients: Any, direction: Direction) -> Any:
    """M (B, K): the product of each loss's gradient with a direction."""
    S = H @ direction[0].T + direction[1]
    return (gradients * S[:, None]).sum(-1)


def head_meta_gradient(
    W: Any,
    b: Any,
    H: Any,
    gradients: Any,
    weights: Any,
    H_val: Any,
    y_val: Any,
    lr: float,
    lookahead: float = 1.0,
) -> Any:
    """Gradient of the validation cross-entropy after one step in the weights of the losses, in closed form.

    Parameters
    ----------
    W : array of shape (C, d)
        Of the last layer, or of a linear model.
    b : array of shape (C,)
    H : array of shape (B, d)
        What goes into that layer.
    gradients : array of shape (B, K, C)
        Of each loss of each record in the logits, as a `Block` of auxiliary losses gives them.
    weights : array of shape (B, K)
    H_val : array of shape (m, d)
    y_val : array of shape (m, C)
        Validation labels, one column a class.
    lr : float
        Learning rate of the step.
    lookahead : float, default=1.0
        Share of the step after which the gradient of the validation loss is taken: 1 is exact, 0 takes it before the step.

    Returns
    -------
    array of shape (B, K)
        NumPy or torch, as what came in.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.loss_mixing import DistillationLoss, head_meta_gradient
    >>> W, b, H = np.zeros((2, 1)), np.zeros(2), np.array([[1.0], [1.0]])
    >>> right, wrong = np.array([[0.5, -0.5]]), np.array([[-0.5, 0.5]])  # label 1, and label 0 by mistake
    >>> gradients = np.stack([right, wrong])
    >>> head_meta_gradient(W, b, H, gradients, np.ones((2, 1)), np.array([[1.0]]), np.array([[0.0, 1.0]]), lr=1.0)
    array([[-0.5],
           [ 0.5]])
    """
    direction = head_direction(
        W, b, H, gradients, weights, H_val, lambda z: cross_entropy_slope(z, y_val), lr * lookahead
    )
    return -lr / len(weights) * head_alignment(H, gradients, direction)


# --- at the minimum ---------------------------------------------------------------------------------


class HeadCurvature:
    r"""Second derivative of (1/N) sum_i f_i(W h_i + b) + (damping/2) |(W, b)|^2; takes what `statml.solvers` asks for.

    Parameters
    ----------
    H : ndarray or sparse matrix of shape (N, d)
    A : ndarray of shape (N, C, C)
        Second derivatives of the f_i in the logits.
    damping : float
    """

    kind = "hessian"

    def __init__(self, H: Any, A: NDArray[np.float64], damping: float):
        self.H, self.A, self.damping = H, A, damping
        self.n_classes, self.width = A.shape[1], H.shape[1]
        self.n_params = self.n_classes * (self.width + 1)

    def matvec(self, V: NDArray[np.float64]) -> NDArray[np.float64]:
        """Products with rows V (k, p); a row is (W, b) in one piece."""
        products = []
        for v in V:
            W, b = self.unpacked(v)
            S = np.einsum("ncd,nd->nc", self.A, self.H @ W.T + b) / len(self.A)
            products.append(self.packed(S.T @ self.H, S.sum(axis=0)))
        return np.stack(products) + self.damping * V

    def dense(self) -> NDArray[np.float64]:
        """The matrix, (p, p)."""
        C, d = self.n_classes, self.width + 1
        H = self.H.toarray() if hasattr(self.H, "toarray") else self.H
        H = np.hstack([H, np.ones((len(H), 1))])
        matrix = np.empty((C, d, C, d))
        for c in range(C):
            for e in range(c + 1):
                block = (H * (self.A[:, c, e] / len(H))[:, None]).T @ H
                matrix[c, :, e], matrix[e, :, c] = block, block.T
        return matrix.reshape(C * d, C * d) + self.damping * np.eye(C * d)

    def packed(self, W: NDArray, b: NDArray) -> NDArray[np.float64]:
        return np.hstack([W, b[:, None]]).ravel()

    def unpacked(self, v: NDArray) -> tuple[NDArray, NDArray]:
        matrix = v.reshape(self.n_classes, self.width + 1)
        return matrix[:, :-1], matrix[:, -1]


def implicit_direction(
    H: Any, A: NDArray[np.float64], direction: Direction, damping: float
) -> Direction:
    """H^{-1} times a gradient (V_W, v_b) of the validation loss: Cholesky if it fits, conjugate gradients otherwise.

    Parameters
    ----------
    H : ndarray or sparse matrix of shape (N, d)
    A : ndarray of shape (N, C, C)
    direction : (ndarray of shape (C, d), ndarray of shape (C,))
    damping : float

    Returns
    -------
    (ndarray of shape (C, d), ndarray of shape (C,))
    """
    curvature = HeadCurvature(H, A, max(damping, LEAST_DAMPING))
    small = curvature.n_params <= DIRECT_SIZE
    solver = (
        DirectSolver(curvature)
        if small
        else ConjugateGradientSolver(curvature, 1e-6, max_iter=None)
    )
    return curvature.unpacked(solver.solve(curvature.packed(*direction)[None])[0])


def logit_curvature(losses: Any, logits: NDArray, index: NDArray, weights: NDArray) -> NDArray:
    """Second derivative in the logits of the weighted sum of a record's losses, (N, C, C)."""
    total, first = np.zeros((*logits.shape, logits.shape[1])), 0
    for block in losses.blocks:
        part = weights[:, first : first + len(block.names)]
        first += len(block.names)
        if hasattr(block, "curvature"):
            total += block.curvature(logits, part)
        else:
            total += _differentiated(block, logits, index, part)
    return total


def _differentiated(block: Any, logits: NDArray, index: NDArray, weights: NDArray) -> NDArray:
    """The same by torch, for losses without a closed form."""
    import torch

    block = block.tensors("cpu", torch.float64)
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    losses = block.losses(z, torch.from_numpy(np.asarray(index)))
    (slope,) = torch.autograd.grad((torch.from_numpy(weights) * losses).sum(), z, create_graph=True)
    columns = [
        torch.autograd.grad(slope[:, c].sum(), z, retain_graph=True)[0] for c in range(z.shape[1])
    ]
    return torch.stack(columns, dim=1).numpy()
