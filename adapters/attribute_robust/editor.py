r"""An editor of attributes, learned from images whose attributes were recorded.

`fit_editor` trains a small conditional generator G(x, alpha') = D(E(x), alpha'): an encoder E makes a short code of the image, a decoder D makes an
image of the code and of the attributes wanted. To keep alpha out of the code without an adversary, the code is trained across
records: of the records i, j of one class (the same colour, digit, person, ...) with attributes alpha_i, alpha_j,

    minimise  mean over pairs of  || G(x_i, alpha_j) - x_j ||^2,            with i = j in one pair of `n_partners` + 1,

so that what the code has to carry is what the records of a class share beyond alpha. What differs within a class and is no recorded
attribute comes out as its mean, given x_i. Channels are whitened (`Whitening`), so that colour counts as much as light. The share of variance that the generator explains on pairs of records that it has not seen,
``r2_``, says how good it is; an edit can be trusted only where attributes were recorded.

Gokhale et al. (2021) use such a generator for object attributes in their first setting; its architecture is not published.

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI.
Lample, G. et al. (2017). Fader networks: manipulating images by sliding attributes. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from torch import Tensor, nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_integer,
    check_labels,
    check_number,
)

from .._estimator import NetRegressor
from .attribute import Attribute


class LearnedEditor(Attribute):
    """A generator G(x, alpha'), differentiable in alpha', as an attribute.

    Parameters
    ----------
    module : callable
        (x, value of shape (n, k)) -> x', tensors; a torch Module is put into evaluation mode and its weights are not trained. `fit_editor` makes one.
    low : float or sequence of k floats
        As in `Attribute`.
    high : float or sequence of k floats, optional
    names : sequence of k str
        Of the attributes.
    clean : float or sequence of k floats, default=0.0
        Their usual values.
    units : str, default=""

    Notes
    -----
    A generator makes an image anew: at no value does it return x bit for bit.
    """

    def __init__(
        self,
        module: Callable[[Tensor, Tensor], Tensor],
        low: float | Sequence[float],
        high: float | Sequence[float] | None = None,
        *,
        names: Sequence[str],
        clean: float | Sequence[float] = 0.0,
        units: str = "",
    ):
        if not callable(module):
            raise TypeError(f"module must be a generator (x, value) -> x, got {module!r}")
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
        self.module, self.names = module, tuple(names)
        self.units = (units,) * len(self.names)
        self.clean = (0.0,) * len(self.names)
        self.clean = tuple(self._ends("clean", clean).tolist())
        super().__init__(low, high)

    def __repr__(self) -> str:
        what = type(self.module).__qualname__
        return f"LearnedEditor({what}, {self.low.tolist()}, {self.high.tolist()}, names={self.names}, clean={self.clean})"

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        if isinstance(self.module, nn.Module):
            self.module.to(x.device)
        return self.module(x, value.to(x.dtype))


def fit_editor(
    X: ArrayLike,
    attributes: ArrayLike,
    y: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    n_partners: int = 4,
    validation_fraction: float = 0.2,
    code: int = 16,
    width: int = 32,
    epochs: int = 40,
    batch_size: int = 128,
    lr: float = 2e-3,
    device: str = "cpu",
    progress: bool | str = "auto",
    random_state: RandomState = None,
) -> LearnedEditor:
    """Train a conditional autoencoder to set the attributes of images.

    Parameters
    ----------
    X : array-like of shape (n, channels, height, width)
        Images; height and width are multiples of 4.
    attributes : array-like of shape (n, k)
        Of each image, as recorded.
    y : array-like of shape (n,)
        What stays in an edit: the class, the person, ...; images that share it are each other's examples.
    names : sequence of k str, optional
        Of the attributes; without it, attribute0, attribute1, ...
    n_partners : int, default=4
        Pairs a record, drawn from its class, beside the pair with itself.
    validation_fraction : float, default=0.2
        Share of the records that are kept out and measure ``r2_``.
    code, width : int, default=16 and 32
        Length of the code and channels of the convolutions, see `ConditionalAutoencoder`.
    epochs, batch_size, lr, device, progress, random_state
        As in `NetRegressor`, which does the training, with Adam.

    Returns
    -------
    LearnedEditor
        Its box is the range of the recorded attributes and its clean values are their means. Beside the parameters it has

        - ``r2_``: share of the variance explained for pairs of records that were kept out, of whitened channels; NaN where none was kept
          out, or where they do not vary;
        - ``loss_curve_``: mean squared error of each epoch.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite, a label is missing, or no class has two records.

    Examples
    --------
    >>> from statml.datasets import make_attribute_images
    >>> from statml.adapters.attribute_robust import fit_editor
    >>> scenes = make_attribute_images(60, size=8, random_state=0)
    >>> editor = fit_editor(scenes.images, scenes.attributes, scenes.target, scenes.attribute_names, epochs=1, random_state=0)
    >>> editor.names
    ('shape', 'size', 'x', 'y', 'light', 'background')
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
        X = check_array(X, dtype=np.float32, allow_nd=True, input_name="X")
        attributes = check_array(
            attributes, dtype=np.float32, ensure_2d=False, input_name="attributes"
        )
    y, n = check_labels("y", y), len(X)
    k = attributes.shape[1] if attributes.ndim == 2 else 0
    if X.ndim != 4 or any(side % 4 or not side for side in X.shape[2:]):
        raise ValueError(
            "X must have shape (n, channels, height, width) with sides that are multiples of 4, "
            f"got {X.shape}"
        )
    if attributes.shape != (n, k) or not k or len(y) != n:
        raise ValueError(
            f"attributes must have shape ({n}, k) and y ({n},), got {attributes.shape} and {y.shape}"
        )
    names = [f"attribute{i}" for i in range(k)] if names is None else list(names)
    if len(names) != k:
        raise ValueError(f"names must hold {k} names, got {names}")
    n_partners = check_integer("n_partners", n_partners, 1)
    share = check_number("validation_fraction", validation_fraction, 0, 1, high_open=True)
    if np.unique(y, return_counts=True)[1].max() < 2:
        raise ValueError("y must have a class with two records or more: partners are of one class")

    split, training = as_seed_sequence(random_state).spawn(2)
    rng = np.random.default_rng(split)
    order = rng.permutation(n)
    held, kept = np.split(order, [round(share * n)])
    first, second = _pairs(y, kept, n_partners, rng)
    net = NetRegressor(
        ConditionalAutoencoder,
        module__shape=X.shape[1:],
        module__n_attributes=k,
        module__code=code,
        module__width=width,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        device=device,
        progress=progress,
        random_state=training,
    )
    colours = Whitening(X[kept])
    with torch.no_grad():
        flat = colours(torch.from_numpy(X)).flatten(1).numpy()
    net.fit(np.hstack([flat[first], attributes[second]]), flat[second])
    editor = LearnedEditor(
        _Generator(colours, net.module_.cpu()),
        attributes.min(0).astype(float),
        attributes.max(0).astype(float),
        names=names,
        clean=attributes.mean(0).astype(float),
    )
    editor.loss_curve_ = net.loss_curve_
    first, second = _pairs(y, held, 1, rng)
    editor.r2_ = float("nan")
    variation = ((flat[second] - flat[kept].mean(0)) ** 2).sum()
    if len(first) and variation > 0:
        wrong = net.predict(np.hstack([flat[first], attributes[second]])) - flat[second]
        editor.r2_ = float(1 - (wrong**2).sum() / variation)
    return editor


def _pairs(
    y: NDArray, records: NDArray, n_partners: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each record with itself and with partners of its class."""
    second = [records]
    for _ in range(n_partners):
        partner = records.copy()
        for label in np.unique(y[records]):
            same = np.flatnonzero(y[records] == label)
            partner[same] = rng.choice(records[same], len(same))
        second.append(partner)
    return np.tile(records, n_partners + 1), np.concatenate(second)


class Whitening(nn.Module):
    """Channels made uncorrelated and of variance 1, by the covariance of the pixels of some images.

    In plain units light and dark have most of the variance, and the squared error would trade the colour of a small object for them.
    """

    def __init__(self, X: NDArray):
        super().__init__()
        pixels = np.moveaxis(X, 1, 0).reshape(X.shape[1], -1).astype(float)
        values, vectors = np.linalg.eigh(np.cov(pixels).reshape(len(pixels), -1))
        # equal channels have no differences to be blown up
        spread = np.sqrt(np.maximum(values, max(1e-4 * values.max(), 1e-12)))
        arrays = {
            "mean": pixels.mean(1)[:, None, None],
            "there": (vectors / spread) @ vectors.T,
            "back": (vectors * spread) @ vectors.T,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("dc,nchw->ndhw", self.there, x - self.mean)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.einsum("dc,nchw->ndhw", self.back, z) + self.mean


class _Generator(nn.Module):
    """The trained autoencoder, called with images and attributes."""

    def __init__(self, colours: Whitening, autoencoder: ConditionalAutoencoder):
        super().__init__()
        self.colours, self.autoencoder = colours, autoencoder

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        return self.colours.inverse(self.autoencoder.edit(self.colours(x), attributes))


class ConditionalAutoencoder(nn.Module):
    """Encoder and decoder of images, with attributes beside the code.

    Parameters
    ----------
    shape : tuple (channels, height, width)
        Of the images; height and width are multiples of 4.
    n_attributes : int
    code : int, default=16
        Length of the code.
    width : int, default=32
        Channels of the convolutions.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_attributes: int, code: int = 16, width: int = 32
    ):
        super().__init__()
        channels, height, columns = shape
        self.shape, self.n_attributes = shape, n_attributes
        small = (width, height // 4, columns // 4)
        n_small = width * small[1] * small[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(n_small, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code + n_attributes, 128),
            nn.ReLU(),
            nn.Linear(128, n_small),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def edit(self, x: Tensor, attributes: Tensor) -> Tensor:
        """Images of shape (n, *shape) with the attributes (n, n_attributes)."""
        return self.decoder(torch.cat([self.encoder(x), attributes], 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of an image and the attributes wanted, flat; returns flat images."""
        x, attributes = rows.tensor_split([rows.shape[1] - self.n_attributes], 1)
        return self.edit(x.unflatten(1, self.shape), attributes).flatten(1)
