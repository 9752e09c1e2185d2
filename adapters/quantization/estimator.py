"""`GenieQuantizer`: a small network from a trained one, without the data that trained it.

In order: the graph is traced; images are made from the statistics of the batch normalisations (or real ones are taken); every layer and every
tensor gets a grid; unit by unit, roundings and steps are learnt so that the output changes least.

Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, fx, nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_finite,
    check_integer,
    check_outputs,
)

from . import storage
from .chaining import reconstruct_network
from .configuration import Configuration, configure
from .diagnostics import Diagnostics, layer_table
from .lowering import calibrate, lower, quantize_weights
from .placement import build_student
from .quantized_graph import QuantizedGraph
from .quantizers import QuantizedLayer
from .rounding import Rounding
from .synthesizers import Real, synthesize
from .tracing import batch_norms, count_classes, fix_shapes, infer_input_shape, trace

UNDECIDED_WARNING = 0.05
PREDICT_BATCH = 256


class GenieQuantizer(Diagnostics, ClassifierMixin, BaseEstimator):
    """Post-training quantization of a classifier without data, or with a few unlabelled records.

    Parameters
    ----------
    n_bits_w : int or dict of layer name to int, default=4
        Bits of weights, 2 to 8. A dict names every layer, as `mixed_precision` returns it; `first_last_bits` is then not used for weights.
    n_bits_a : int, default=4
        Bits of activations, 2 to 8.
    first_last_bits : int or None, default=8
        Bits of the weights of the first and last layer, and of what the last one reads. None: as the others.
    second_input_bits : int or None, default=8
        Bits of what the second layer reads (as in BRECQ's setting). None: as the others.
    placement : {"academic", "deployable"}, default="academic"
        Which tensors are quantised. "academic": what layers read, as papers report it; sums stay real, so that integer kernels cannot
        run it. "deployable": the input and everything that a layer or sum puts out, so that every layer runs in integers.
    method : {"genie", "qdrop", "brecq", "adaround", "rtn-mse", "rtn-percentile", "rtn-minmax"} or Rounding, default="genie"
        How weights are rounded. The last three round to nearest.
    data : {"genie", "gba", "dba", "zeroq", "noise"}, default="genie"
        How images are made where `fit` gets none.
    preset : {"fast", "paper"}, default="fast"
        Where `n_samples`, `distill_batch`, `distill_iter`, `generator_channels` and `recon_iter` come from if they are None. "fast": 256, 128, 300, (64, 32),
        500, minutes on a CPU. "paper": 1024, 128, 4000, (128, 64), 20000, hours on a GPU.
    n_samples : int or None, default=None
        Number of images to work with.
    distill_batch, distill_iter : int or None, default=None
        Images that are made together, and iterations for each such batch.
    lr_z, lr_g : float, default=0.1, 0.01
        Learning rates of latent vectors (or pixels) and of the generator.
    latent_dim : int, default=256
    generator_channels : (int, int) or None, default=None
        Size of the generator; large images need a small one.
    swing : int, default=1
        Pixels by which inputs of strided convolutions are shifted at random while images are made; 0 for none.
    input_stats : (mean, std), (mean, std, low, high) or "free", default=(0.0, 1.0)
        What is known of real inputs: mean and deviation, numbers or one a channel, and the range. Images are drawn to these, and kept within the range.
    recon_iter : int or None, default=None
        Iterations a unit; 0 rounds to nearest.
    recon_batch : int, default=32
        Also the number of images from which the grids of tensors are set.
    lr_round : float or "auto", default="auto"
        Learning rate of roundings. "auto": max(1e-3, 4 / (0.8 recon_iter)), so that they can be decided in the iterations that there are.
    lr_w_step, lr_a_step : float, default=1e-4, 4e-5
        Learning rates of steps.
    round_weight : float or "auto", default="auto"
        Weight of the term that drives roundings to a decision. "auto": the method's own, 1 for "genie" and 0.01 for the others.
    beta : (float, float), default=(20, 2)
    warmup : float, default=0.2
        Share of the iterations without that term.
    drop_prob : float or "auto", default="auto"
        Share of activations that pass unquantised while learning. "auto": 0.5 for "genie" and "qdrop", 0 for the others.
    init_p : float, default=2.4
        Power of the error that grids are searched for.
    granularity : {"block", "layer", "auto"}, default="auto"
        What is reconstructed at a time. "auto": layers for "adaround", blocks for the others.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes images, minibatches and what is dropped.
    device : str, default="cpu"
    progress : "auto", True or False, default="auto"
    checkpoint_dir : path or None, default=None
        Folder in which finished batches of images and finished units are kept; a run that was killed goes on from there with the same result.

    Attributes
    ----------
    model_ : GraphModule
        Simulates the quantised network in floats: right in its predictions, not faster than the original.
    float_model_ : GraphModule
        The original.
    synthetic_data_ : ndarray of shape (n_samples, ...) or None
        The images that were made.
    distill_loss_ : DataFrame
        A row an iteration of the images: batch, iteration, total, image, and a column for each normalisation.
    layers_ : DataFrame
        A row a layer: name, kind, unit, n_weights, n_bits_w, n_bits_a (of what it reads; NaN where that is not quantised), step (mean over channels), step_a,
        clipped (share of weights outside their grid), flipped (share not rounded to nearest), undecided (share of roundings that had not come to
        0 or 1), start_loss, soft_loss and hard_loss (of the unit: rounded to nearest, before and after the roundings are decided),
        sqnr_db (of the layer's output on the images that were used).
    undecided_ : float
        Share of all learnt roundings that were undecided.
    size_bytes_ : int
        Of weights, packed, with steps, zero-points and what stays in floats.
    classes_ : ndarray of shape (n_classes,)
        0, 1, ...: positions of the network's outputs.
    input_shape_ : tuple of int
    n_features_in_ : int
    fit_time_ : dict of str to float
        Seconds for images and for the reconstruction.

    Notes
    -----
    ``fit`` takes a network where scikit-learn's estimators take data, so scikit-learn's checks do not apply. The constructor stores
    parameters, ``clone``, ``get_params`` and ``set_params`` work as usual, and what is learnt ends in ``_``.

    Below 8 bits the gain is size, not speed: arithmetic on CPUs is 8 bits wide.

    References
    ----------
    Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from statml.adapters import GenieQuantizer
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
    ... )
    >>> _ = net.train()(torch.randn(500, 1, 8, 8))  # a trained network: statistics of its data
    >>> quantizer = GenieQuantizer(n_samples=32, distill_iter=10, recon_iter=400, random_state=0)
    >>> quantizer.fit(net.eval(), input_shape=(1, 8, 8)).predict(torch.randn(5, 1, 8, 8).numpy()).shape
    (5,)
    >>> quantizer.layers_[["name", "n_bits_w", "n_weights"]]
      name  n_bits_w  n_weights
    0    0         8         72
    1    4         8        216
    """

    def __init__(
        self,
        n_bits_w: int | Mapping[str, int] = 4,
        n_bits_a: int = 4,
        *,
        first_last_bits: int | None = 8,
        second_input_bits: int | None = 8,
        placement: str = "academic",
        method: str | Rounding = "genie",
        data: str = "genie",
        preset: str = "fast",
        n_samples: int | None = None,
        distill_batch: int | None = None,
        distill_iter: int | None = None,
        lr_z: float = 0.1,
        lr_g: float = 0.01,
        latent_dim: int = 256,
        generator_channels: tuple[int, int] | None = None,
        swing: int = 1,
        input_stats: Sequence | str = (0.0, 1.0),
        recon_iter: int | None = None,
        recon_batch: int = 32,
        lr_round: float | str = "auto",
        lr_w_step: float = 1e-4,
        lr_a_step: float = 4e-5,
        round_weight: float | str = "auto",
        beta: tuple[float, float] = (20, 2),
        warmup: float = 0.2,
        drop_prob: float | str = "auto",
        init_p: float = 2.4,
        granularity: str = "auto",
        random_state: RandomState = None,
        device: str = "cpu",
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
    ):
        self.n_bits_w = n_bits_w
        self.n_bits_a = n_bits_a
        self.first_last_bits = first_last_bits
        self.second_input_bits = second_input_bits
        self.placement = placement
        self.method = method
        self.data = data
        self.preset = preset
        self.n_samples = n_samples
        self.distill_batch = distill_batch
        self.distill_iter = distill_iter
        self.lr_z = lr_z
        self.lr_g = lr_g
        self.latent_dim = latent_dim
        self.generator_channels = generator_channels
        self.swing = swing
        self.input_stats = input_stats
        self.recon_iter = recon_iter
        self.recon_batch = recon_batch
        self.lr_round = lr_round
        self.lr_w_step = lr_w_step
        self.lr_a_step = lr_a_step
        self.round_weight = round_weight
        self.beta = beta
        self.warmup = warmup
        self.drop_prob = drop_prob
        self.init_p = init_p
        self.granularity = granularity
        self.random_state = random_state
        self.device = device
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir

    # --- fitting ----------------------------------------------------------------------------------------

    def fit(
        self,
        model: nn.Module,
        X: ArrayLike | None = None,
        *,
        input_shape: Sequence[int] | None = None,
    ) -> Self:
        """Quantise a trained network.

        Parameters
        ----------
        model : torch Module
            A trained classifier of one input; it is copied and stays as it is.
        X : array-like of shape (n_records, ...), optional
            Unlabelled real inputs, prepared as for the network. A random `n_samples` of them take the place of synthetic images.
        input_shape : sequence of int, optional
            Shape of one record, such as (3, 224, 224); needed where neither X nor the first layer says it.

        Returns
        -------
        GenieQuantizer
            Fitted.

        Raises
        ------
        TypeError
            If `model` is no Module of 32-bit floats.
        ValueError
            If there is neither batch normalisation nor X, the graph cannot be traced, the input shape cannot be inferred, or X
            lies outside the range in `input_stats` or is so large that the reconstruction diverges.
        """
        run = configure(self)
        seeds = as_seed_sequence(self.random_state).spawn(2)
        traced = trace(model).to(self.device)
        X = self._as_records(X)
        shape = _input_shape(traced, X, input_shape)
        fix_shapes(traced, shape)
        self.classes_ = np.arange(count_classes(traced, shape, self.device))
        student = build_student(traced, self.placement, run.bits)  # refuses bits and names early
        folder, fingerprint = self._folder(traced, X)

        started = time.perf_counter()
        images, self.distill_loss_ = self._images(
            run, traced, X, shape, seeds[0], folder, fingerprint
        )
        self.synthetic_data_ = None if X is not None else images.cpu().numpy()
        imaged = time.perf_counter()
        quantize_weights(
            student, run.bits, lambda w, n, s: run.rounding.weight_grid(w, n, s, run.init_p)
        )
        first = images[: run.settings.recon_batch]
        calibrate(
            student, traced, first, lambda x, n: run.rounding.activation_grid(x, n, run.init_p)
        )
        records = []
        if run.learning is not None:
            records = reconstruct_network(
                traced,
                student,
                images,
                run.learning,
                run.settings,
                seeds[1],
                progress=self.progress,
                folder=folder,
                fingerprint=fingerprint,
            )
        _freeze(student)
        self.fit_time_ = {
            "images": imaged - started,
            "reconstruction": time.perf_counter() - imaged,
        }
        self.float_model_, self.model_ = traced, student
        self.input_shape_ = shape
        self.n_features_in_ = int(np.prod(shape))
        self.layers_ = layer_table(traced, student, records, images)
        learnt = self.layers_.dropna(subset="undecided")
        self.undecided_ = float(
            np.average(learnt["undecided"], weights=learnt["n_weights"]) if len(learnt) else 0.0
        )
        self.size_bytes_ = storage.stored_bytes(student)
        if self.undecided_ > UNDECIDED_WARNING:
            warnings.warn(
                f"{self.undecided_:.1%} of the roundings are undecided at the end, so that the result is that of an optimiser cut "
                f"short: raise recon_iter (now {run.settings.recon_iter}), lr_round (now {run.settings.lr_round:g}) or round_weight "
                f"(now {run.settings.round_weight:g})",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _as_records(self, X: ArrayLike | None) -> Tensor | None:
        if X is None:
            return None
        X = np.asarray(X.detach().cpu() if isinstance(X, Tensor) else X)
        if X.ndim < 2 or not len(X):
            raise ValueError(f"X must hold records, one a row, got shape {X.shape}")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"X must hold numbers, got {X.dtype}")
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            X = np.ascontiguousarray(X, dtype=np.float32)
        return torch.from_numpy(check_finite("X, in single precision,", X)).to(self.device)

    def _images(
        self, run: Configuration, traced, X, shape, seeds, folder, fingerprint
    ) -> tuple[Tensor, pd.DataFrame]:
        """Synthetic images, or a sample of the real ones, and the losses on the way."""
        request = run.request_for(shape)
        if X is None:
            if run.synthesizer.needs_norms and not batch_norms(traced):
                raise ValueError(
                    "the network has no batch normalisation with running statistics, from which images could be made: hand real "
                    "inputs over, fit(model, X=...)"
                )
            synthesizer, n, batch = run.synthesizer, run.n_samples, run.distill_batch
        else:
            limits = request.limits
            if limits is not None and (X.min() < limits[0] or X.max() > limits[1]):
                raise ValueError(
                    f"X must lie within the range of input_stats, {limits[0]:g} to {limits[1]:g}, got {X.min():g} to {X.max():g}"
                )
            synthesizer = Real(X)
            n = batch = min(run.n_samples, len(X))
        return synthesize(
            synthesizer,
            traced,
            request,
            n,
            batch,
            run.swing,
            seeds,
            progress=self.progress,
            folder=folder if X is None else None,
            fingerprint=fingerprint,
        )

    def _folder(self, traced: fx.GraphModule, X: Tensor | None) -> tuple[Path | None, str]:
        """Where the run is kept, and what identifies it."""
        if self.checkpoint_dir is None:
            return None, ""
        folder = Path(self.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {
            name: repr(value)
            for name, value in self.get_params(deep=False).items()
            if name not in ("progress", "checkpoint_dir")
        }
        if not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                f"checkpoint_dir needs random_state to be an integer, so that a resumed run is the same, got {self.random_state!r}"
            )
        weights = {name: t.cpu().numpy() for name, t in traced.state_dict().items()}
        given = None if X is None else X.cpu().numpy()
        return folder, joblib.hash((parameters, weights, given))

    # --- prediction -------------------------------------------------------------------------------------

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Outputs of the quantised network.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, n_classes)
        """
        check_is_fitted(self, "model_")
        return self._run(self.model_, X)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes: the softmax of the outputs.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, n_classes)
        """
        logits = self.decision_function(X).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The most probable class of each record.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records,)
        """
        best = self.decision_function(X).argmax(axis=1)
        return self.classes_[best]

    @torch.no_grad()
    def _run(self, network: fx.GraphModule, X: ArrayLike) -> NDArray[np.float32]:
        X = self._as_records(X)
        if tuple(X.shape[1:]) != self.input_shape_:
            raise ValueError(
                f"X must hold records of shape {self.input_shape_}, got {tuple(X.shape[1:])}"
            )
        parts = [network(part).cpu() for part in X.split(PREDICT_BATCH)]
        return check_outputs(torch.cat(parts).numpy())

    # --- what else can be made of it --------------------------------------------------------------------

    def synthesize(
        self, n: int, *, random_state: RandomState = None, return_info: bool = False
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], pd.DataFrame]:
        """More images from the statistics of the network.

        Parameters
        ----------
        n : int
            At least 2.
        random_state : int, SeedSequence, Generator, RandomState or None, default=None
        return_info : bool, default=False
            Whether the table of losses is returned too.

        Returns
        -------
        ndarray of shape (n, ...), and a DataFrame like ``distill_loss_`` if `return_info`
        """
        check_is_fitted(self, "model_")
        run = replace(configure(self), n_samples=check_integer("n", n, low=2))
        seeds = as_seed_sequence(random_state)
        images, info = self._images(
            run, self.float_model_, None, self.input_shape_, seeds, None, ""
        )
        images = images.cpu().numpy()
        return (images, info) if return_info else images

    def to_graph(self) -> QuantizedGraph:
        """The quantised network as plain data: integer codes and grids.

        Returns
        -------
        QuantizedGraph
        """
        check_is_fitted(self, "model_")
        return lower(self.model_, self.input_shape_, self.placement)

    # --- files ------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write the quantised network into one safetensors file, weights as packed codes.

        Parameters
        ----------
        path : path
            The architecture is not in it: `load` takes the network again.
        """
        check_is_fitted(self, "model_")
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, model: nn.Module) -> Self:
        """Read what `save` wrote; no code in the file is run.

        Parameters
        ----------
        path : path
        model : torch Module
            A network of the architecture that was quantised. ``float_model_`` has its weights, so that `compare` means something
            if they are the trained ones.

        Returns
        -------
        GenieQuantizer
            Fitted, on the CPU.

        Raises
        ------
        ValueError
            If the file was not written by `save`, was changed since, or does not fit `model`.
        """
        return storage.load(cls, path, model)


def _input_shape(traced, X: Tensor | None, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        shape = tuple(check_integer("input_shape", size, low=1) for size in given)
        if X is not None and tuple(X.shape[1:]) != shape:
            raise ValueError(f"X must hold records of input_shape {shape}, got {X.shape[1:]}")
        return shape
    shape = tuple(X.shape[1:]) if X is not None else infer_input_shape(traced)
    if shape is None:
        raise ValueError(
            "the shape of the inputs cannot be inferred from the network: give it, such as input_shape=(3, 224, 224)"
        )
    return shape


def _freeze(student: fx.GraphModule) -> None:
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze()
    for parameter in student.parameters():
        parameter.requires_grad_(False)
