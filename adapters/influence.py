"""The gradient oracle of a torch network: every gradient-based method of `statml.influence` then applies to it.

Parameters are one flat vector, layer after layer (`_flat_parameters`). Per-record gradients are ``vmap(grad(...))`` of a pure
function of that vector; Hessian products are forward over reverse; Gauss-Newton products are a jvp, the loss's own Hessian in the
outputs, and a vjp.

The network runs in evaluation mode: without dropout, and with the running statistics of batch norm. Records are taken one by one,
so a loss that averages over its batch is right too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from statml._validation import check_integer, check_magnitude, check_number
from statml.influence.oracle import MEMORY_LIMIT, GradientOracle, check_weights, count, take

from ._flat_parameters import arrange

__all__ = ["TorchOracle"]

Array = NDArray[np.float64]
LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")
COLUMNS = 16  # directions that one product takes at once
FEW = 4  # sums of gradients up to which backward passes beat record gradients


class TorchOracle(GradientOracle):
    """A torch network at its present parameters.

    Parameters
    ----------
    module : torch.nn.Module, or a fitted estimator with one as ``module_`` (of `statml.adapters`, of skorch)
        Copied; it maps a batch of inputs to outputs of shape (m, n_outputs) (or (m,), one output).
    loss_fn : {"cross_entropy", "binary_cross_entropy", "squared_error"} or callable, default="cross_entropy"
        "cross_entropy": classes 0..C−1 (or an estimator's ``classes_``) and C logits; "binary_cross_entropy": classes 0 and 1
        and one logit; "squared_error": ½‖f − y‖². Or (outputs, y) -> loss, called with batches of one record, such as
        ``torch.nn.MSELoss()``.
    X, y : tensors or arrays of n records, optional
        Training data; may be left to ``fit(oracle, X, y)``.
    sample_weight : array-like of shape (n,), optional
    params : sequence of str or None, default=None
        Names of the parameters that count, as in ``module.named_parameters()``; the others are constants. None: all that require
        a gradient.
    l2 : float, default=0.0
        Weight decay of training: (l2/2)‖θ‖² in the mean objective, over all parameters.
    batch_size : int, default=256
        Records that pass through the network at once.
    device : str or torch.device, default="cpu"
    dtype : torch.dtype, default=torch.float64
        Precision; inverting a curvature matrix takes more digits than training does.
    memory_limit : int, default=2**28
        Bytes of one temporary array.

    Attributes
    ----------
    theta : ndarray of shape (p,)
    layers : list of str
        Names of the layers, in the order of θ.

    Raises
    ------
    ValueError
        For labels that the network was not trained with, records of another shape, or NaN.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from statml.adapters.influence import TorchOracle
    >>> from statml.influence import InfluenceFunction
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> oracle = TorchOracle(network, "cross_entropy", X, y, l2=0.01)
    >>> oracle.grad(*oracle.prepare(X[:5], y[:5])).shape
    (5, 67)
    """

    convex = False

    def __init__(
        self,
        module: Any,
        loss_fn: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        X: Any = None,
        y: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
        params: Sequence[str] | None = None,
        l2: float = 0.0,
        batch_size: int = 256,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        memory_limit: int = MEMORY_LIMIT,
    ):
        self.classes = getattr(module, "classes_", None)
        module = getattr(module, "module_", module)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"module must be a torch.nn.Module or a fitted estimator with module_, got {type(module).__name__}"
            )
        if not callable(loss_fn) and loss_fn not in LOSSES:
            raise ValueError(f"loss_fn must be one of {LOSSES} or callable, got {loss_fn!r}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")
        self.loss_fn = loss_fn
        self.l2 = check_number("l2", l2, low=0)
        self.batch_size = check_integer("batch_size", batch_size, low=1)
        self.memory_limit = check_integer("memory_limit", memory_limit, low=1)
        self.device, self.dtype = torch.device(device), dtype
        self.module = copy.deepcopy(module).to(device=self.device, dtype=dtype).eval()
        self._blocks = arrange(self.module, params)
        self.layers = [block.name for block in self._blocks if block.is_layer]
        self.theta = self.vector(self.module)
        self.X = self.y = None
        self.sample_weight = np.empty(0)
        if X is not None:
            self._set_data(X, y, sample_weight)

    def bind(self, X: Any = None, y: Any = None, sample_weight: Any = None) -> TorchOracle:
        """The same network with other training data."""
        if X is None:
            if self.X is None:
                raise ValueError("X and y must hold the training data, got None")
            return self
        other = copy.copy(self)
        other._set_data(X, y, sample_weight)
        return other

    def _set_data(self, X, y, sample_weight) -> None:
        if y is None:
            raise ValueError("y must hold the training labels, got None")
        self.X = self.y = None  # whatever was there does not bind the new data's shape
        self.X, self.y = self.prepare(X, y)
        try:
            with torch.no_grad():
                self._forward(self._tensor(None), self.X[:1].to(self.device))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"X holds records of shape {tuple(self.X.shape[1:])}, which the network does not take: {error}"
            ) from error
        everyone = np.ones(len(self.X))
        self.sample_weight = (
            everyone if sample_weight is None else check_weights(sample_weight, everyone)
        )

    # --- parameters ---

    def vector(self, source: Any) -> Array:
        """The flat parameter vector of a module or state dict of the same network: a checkpoint for TracIn.

        Parameters
        ----------
        source : torch.nn.Module or mapping of str to tensor

        Returns
        -------
        ndarray of shape (p,)
        """
        tensors = dict(source.named_parameters()) if isinstance(source, nn.Module) else source
        missing = [name for b in self._blocks for name in b.parameters if name not in tensors]
        if missing:
            raise ValueError(f"source lacks the parameters {missing[:5]}")
        parts = [block.flatten(tensors) for block in self._blocks]
        return torch.cat(parts).double().cpu().numpy()

    def state(self, theta: ArrayLike | None = None) -> dict[str, Tensor]:
        """Parameters by name, for ``module.load_state_dict(..., strict=False)``.

        Parameters
        ----------
        theta : array-like of shape (p,) or None, default=None
            None: those of the fit.

        Returns
        -------
        dict of str to tensor
        """
        flat = self._tensor(theta)
        return {name: value.clone() for name, value in self._named(flat).items()}

    @property
    def parameter_names(self) -> list[str]:
        """A name for every entry of the flat parameter vector."""
        names = []
        for block in self._blocks:
            names += block.entry_names()
        return names

    def regulariser(self) -> Array:
        return np.full(self.n_params, self.l2)

    def _tensor(self, theta: ArrayLike | None) -> Tensor:
        return torch.as_tensor(
            self.theta if theta is None else np.asarray(theta), dtype=self.dtype, device=self.device
        )

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        named, start = {}, 0
        for block in self._blocks:
            named |= block.unflatten(flat[start : start + block.size])
            start += block.size
        return named

    # --- data ---

    def prepare(self, X: Any, y: Any = None) -> tuple[Tensor, Tensor | None]:
        if not isinstance(X, Tensor):
            X = np.asarray(X)
            X = torch.as_tensor(X.astype(X.dtype.newbyteorder("="), copy=False))
        if X.is_complex():
            raise ValueError("X must hold real numbers, got complex ones")
        if X.is_floating_point() or not _takes_integers(self.module):
            X = X.to(self.dtype)
            if not torch.isfinite(X).all():
                raise ValueError("X must be finite, got NaN or infinity")
            if (
                X.dtype == torch.float64
            ):  # the others end before products overflow in double precision
                check_magnitude("X", X.detach().cpu().numpy())
        if X.ndim == 0 or len(X) == 0:
            raise ValueError(f"X must hold at least one record, got shape {tuple(X.shape)}")
        if self.X is not None and X.shape[1:] != self.X.shape[1:]:
            raise ValueError(
                f"X must hold records of shape {tuple(self.X.shape[1:])}, got {tuple(X.shape[1:])}"
            )
        if y is None:
            return X, None
        y = self._encode(y)
        if len(y) != len(X):
            raise ValueError(f"X and y must have the same length, got {len(X)} and {len(y)}")
        return X, y

    def _encode(self, y: Any) -> Tensor:
        y = y.cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
        if self.loss_fn not in ("cross_entropy", "binary_cross_entropy"):
            y = torch.as_tensor(y)
            y = y.to(self.dtype) if self.loss_fn == "squared_error" or y.is_floating_point() else y
            if y.is_floating_point() and not torch.isfinite(y).all():
                raise ValueError("y must be finite, got NaN or infinity")
            return y
        known = self.classes
        if known is None:
            n_classes = 2 if self.loss_fn == "binary_cross_entropy" else self._n_outputs()
            known = np.arange(n_classes if n_classes is not None else int(np.max(y)) + 1)
        if y.ndim != 1:
            raise ValueError(f"y must have shape (m,), got {y.shape}")
        unseen = ~np.isin(y, known)
        if unseen.any():
            raise ValueError(
                f"y holds labels that the network does not know: {np.unique(y[unseen])[:5].tolist()}; it knows "
                f"{np.asarray(known).tolist()}"
            )
        return torch.as_tensor(np.searchsorted(known, y))

    def _n_outputs(self) -> int | None:
        last = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        return last[-1].out_features if last else None

    def _on_device(self, X: Tensor, y: Tensor | None, rows: slice) -> tuple[Tensor, Tensor | None]:
        return X[rows].to(self.device), None if y is None else y[rows].to(self.device)

    def _chunks(self, m: int) -> Iterator[slice]:
        for start in range(0, m, self.batch_size):
            yield slice(start, min(start + self.batch_size, m))

    def batches(self, m: int | None = None, width: int | None = None) -> Iterator[slice]:
        """As every oracle's, and no more records than pass through the network at once."""
        for part in super().batches(m, width):
            for start in range(part.start, part.stop, self.batch_size):
                yield slice(start, min(start + self.batch_size, part.stop))

    # --- functions of one record, pure in the flat vector ---

    def _forward(self, flat: Tensor, X: Tensor) -> Tensor:
        out = functional_call(self.module, self._named(flat), (X,))
        return out[:, None] if out.ndim == 1 else out

    def _loss_of(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of one record from its outputs (n_outputs,)."""
        if self.loss_fn == "cross_entropy":
            # a comparison, since indexing by a tensor does not go through vmap
            own = torch.arange(outputs.shape[-1], device=outputs.device) == y
            return torch.logsumexp(outputs, -1) - torch.where(own, outputs, 0.0).sum(-1)
        if self.loss_fn == "binary_cross_entropy":
            return F.softplus(outputs[0]) - y * outputs[0]
        if self.loss_fn == "squared_error":
            return ((outputs - y.reshape(-1)) ** 2).sum() / 2
        value = self.loss_fn(outputs[None], y[None])
        if value.numel() != 1:
            raise ValueError(
                f"loss_fn must give one loss for a batch of one record, got shape {tuple(value.shape)}"
            )
        return value.reshape(())

    def _record_loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._loss_of(self._forward(flat, x[None])[0], y)

    def _output_of(self, outputs: Tensor, y: Tensor | None, target: str) -> Tensor:
        if self.loss_fn == "squared_error":
            if outputs.shape[-1] != 1:
                raise ValueError(f'target="{target}" takes a network with one output')
            return outputs[0]
        if self.loss_fn == "binary_cross_entropy":
            margin = (2 * y - 1) * outputs[0]
        else:
            own = torch.arange(outputs.shape[-1], device=outputs.device) == y
            rest = torch.where(own, -torch.inf, outputs)
            margin = torch.where(own, outputs, 0.0).sum(-1) - torch.logsumexp(rest, -1)
        return margin if target == "margin" else torch.sigmoid(margin)

    def _record_output(self, flat, x, y, target):
        return self._output_of(self._forward(flat, x[None])[0], y, target)

    # --- the protocol: values and gradients ---

    def loss(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        flat = self._tensor(theta)
        return self._over_records(lambda a, b: vmap(self._loss_of)(self._forward(flat, a), b), X, y)

    def grad(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        flat = self._tensor(theta)
        per_record = vmap(grad(self._record_loss), (None, 0, 0))
        return self._over_records(lambda a, b: per_record(flat, a, b), X, y)

    def output(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        self._check_target(y, target)
        flat = self._tensor(theta)
        value = vmap(lambda f, b: self._output_of(f, b, target))
        return self._over_records(lambda a, b: value(self._forward(flat, a), b), X, self._any(X, y))

    def output_grad(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        self._check_target(y, target)
        flat = self._tensor(theta)
        per_record = vmap(grad(lambda t, a, b: self._record_output(t, a, b, target)), (None, 0, 0))
        return self._over_records(lambda a, b: per_record(flat, a, b), X, self._any(X, y))

    def grad_sum(self, coefficients: Array, X: Any, y: Any, theta: Array | None = None) -> Array:
        if coefficients.shape[1] > FEW:
            return super().grad_sum(coefficients, X, y, theta)
        flat = self._tensor(theta)
        total = torch.zeros(
            coefficients.shape[1], self.n_params, dtype=self.dtype, device=self.device
        )
        for rows in self._chunks(len(X)):
            a, b = self._on_device(X, y, rows)
            c = torch.as_tensor(coefficients[rows], dtype=self.dtype, device=self.device)
            _, pull = vjp(lambda t, a=a, b=b: vmap(self._loss_of)(self._forward(t, a), b), flat)
            for k in range(c.shape[1]):
                total[k] += pull(c[:, k])[0]
        return _numpy(total).T

    def _check_target(self, y, target) -> None:
        if callable(self.loss_fn):
            raise NotImplementedError(
                f'target="{target}" needs a loss_fn that is named ({", ".join(LOSSES)}), got a callable'
            )
        if y is None and self.loss_fn != "squared_error":
            raise ValueError(f'y_test must be given for target="{target}" of a classification')

    def _any(self, X, y):
        return torch.zeros(len(X)) if y is None else y

    def _over_records(self, function, X, y) -> Array:
        parts = [_numpy(function(*self._on_device(X, y, rows))) for rows in self._chunks(len(X))]
        return np.concatenate(parts)

    # --- curvature ---

    def hvp(
        self,
        V: Array,
        X: Any = None,
        y: Any = None,
        sample_weight: Array | None = None,
        theta: Array | None = None,
    ) -> Array:
        X, y, weight = self._records(X, y, sample_weight)

        def product(flat, a, b, w):
            def gradient(t):
                return grad(lambda s: (vmap(self._loss_of)(self._forward(s, a), b) * w).sum())(t)

            return lambda v: jvp(gradient, (flat,), (v,))[1]

        return self._curvature_product(product, V, X, y, weight, theta)

    def ggn_vp(
        self,
        V: Array,
        X: Any = None,
        y: Any = None,
        sample_weight: Array | None = None,
        theta: Array | None = None,
    ) -> Array:
        X, y, weight = self._records(X, y, sample_weight)

        def product(flat, a, b, w):
            def forward(t):
                return self._forward(t, a)

            outputs, pull = vjp(forward, flat)
            W = vmap(hessian(self._loss_of))(outputs.detach(), b) * w[:, None, None]

            def apply(v):
                return pull(torch.einsum("mij,mj->mi", W, jvp(forward, (flat,), (v,))[1]))[0]

            return apply

        return self._curvature_product(product, V, X, y, weight, theta)

    def _curvature_product(self, product, V, X, y, weight, theta) -> Array:
        """Mean over records, plus penalty, of a product given for a batch, for all columns of V."""
        flat = self._tensor(theta)
        columns = torch.as_tensor(
            np.ascontiguousarray(np.reshape(V, (self.n_params, -1)).T),
            dtype=self.dtype,
            device=self.device,
        )
        total = torch.zeros_like(columns)
        for rows in self._chunks(len(X)):
            a, b = self._on_device(X, y, rows)
            w = torch.as_tensor(weight[rows], dtype=self.dtype, device=self.device)
            apply = product(flat, a, b, w)
            for start in range(0, len(columns), COLUMNS):
                some = slice(start, start + COLUMNS)
                total[some] += vmap(apply)(columns[some])
        mean = _numpy(total).T.reshape(np.shape(V)) / len(X)
        return mean + self.l2 * np.asarray(V)

    def ggn_factor(self, X: Any, y: Any = None, theta: Array | None = None) -> Array:
        flat = self._tensor(theta)

        def rows_of(a, b):
            J = vmap(jacrev(lambda t, x: self._forward(t, x[None])[0]), (None, 0))(flat, a)
            W = vmap(hessian(self._loss_of))(self._forward(flat, a), b)
            values, vectors = torch.linalg.eigh(W)
            root = vectors * values.clamp(min=0).sqrt()[:, None, :]
            return (root.mT @ J).reshape(-1, self.n_params)

        return self._over_records(rows_of, X, self._any(X, y).to(torch.int64) if y is None else y)

    def ggn(self) -> Array:
        # the factor's Gram matrix is one large product, where products with unit vectors are p small ones
        G = np.zeros((self.n_params, self.n_params))
        n_outputs = self._forward(self._tensor(None), self.X[:1].to(self.device)).shape[1]
        for part in self.batches(width=n_outputs * self.n_params):
            F_ = self.ggn_factor(take(self.X, part), take(self.y, part))
            G += (F_ * np.repeat(self.sample_weight[part], n_outputs)[:, None]).T @ F_
        return G / self.n_train + self.l2 * np.eye(self.n_params)

    # --- layers ---

    def layer_factors(
        self, X: Any, y: Any, theta: Array | None = None
    ) -> list[tuple[Array, Array]] | None:
        if not all(block.is_layer for block in self._blocks):
            return None
        parts = [
            self._factors(*self._on_device(X, y, rows), self._tensor(theta))
            for rows in self._chunks(count(X))
        ]
        return [
            tuple(np.concatenate([part[l][k] for part in parts]) for k in (0, 1))
            for l in range(len(self._blocks))
        ]

    def _factors(self, X: Tensor, y: Tensor, flat: Tensor) -> list[tuple[Array, Array]]:
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.layers}

        def record(name):
            def hook(layer, inputs, output):
                calls[name].append((inputs[0].detach(), output))
                return (
                    output.clone()
                )  # an activation in place must not touch what is differentiated

            return hook

        modules = dict(self.module.named_modules())
        hooks = [modules[name].register_forward_hook(record(name)) for name in self.layers]
        try:
            flat = flat.detach().clone().requires_grad_()
            total = vmap(self._loss_of)(self._forward(flat, X), y).sum()
        finally:
            for hook in hooks:
                hook.remove()
        outputs = [output for name in self.layers for _, output in calls[name]]
        slopes = iter(torch.autograd.grad(total, outputs))
        factors = []
        for block in self._blocks:
            pairs = [
                block.rows(inputs, next(slopes), modules[block.name])
                for inputs, _ in calls[block.name]
            ]
            if not pairs:
                raise ValueError(f"layer {block.name!r} takes no part in the forward pass")
            if len(pairs) == 1 and pairs[0][0].shape[1] == 1:
                a, delta = (t[:, 0] for t in pairs[0])
            else:
                a, delta = (torch.cat(t, dim=1) for t in zip(*pairs, strict=True))
            factors.append((_numpy(a), _numpy(delta)))
        return factors

    def sample_labels(self, X: Any, rng: np.random.Generator, theta: Array | None = None) -> Tensor:
        flat = self._tensor(theta)
        outputs = self._over_records(lambda a, _: self._forward(flat, a), X, torch.zeros(len(X)))
        if self.loss_fn == "cross_entropy":
            return torch.as_tensor(np.argmax(outputs + rng.gumbel(size=outputs.shape), axis=1))
        if self.loss_fn == "binary_cross_entropy":
            return torch.as_tensor(
                (rng.logistic(size=len(outputs)) < outputs[:, 0]).astype(np.int64)
            )
        if self.loss_fn == "squared_error":
            drawn = torch.as_tensor(rng.normal(outputs), dtype=self.dtype)
            return drawn.reshape(len(X), *self.y.shape[1:])
        raise NotImplementedError(
            "labels can be drawn for the named loss_fn only; take another solver than EK-FAC"
        )


def _takes_integers(module: nn.Module) -> bool:
    return any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in module.modules())


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()
