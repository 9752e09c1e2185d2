"""What a fitted quantizer says of itself, and what can be asked of it: tables, sensitivity, mixed precision, integers, files for other runtimes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor, fx

from statml._validation import check_integer, check_level

from . import storage
from .lowering import walk
from .quantizers import LSQActivation, QuantizedLayer, search_step
from .reconstruction import UnitRecord
from .tracing import layer_nodes, module_of
from .units import Unit

if TYPE_CHECKING:
    from .deployment_report import ExportReport
    from .integer import IntegerNetwork

MEASURED = 64  # images on which layers are compared
CHUNK = 32


def decibels(signal: float, noise: float) -> float:
    """Signal-to-noise ratio in decibels; infinite without noise."""
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal > 0 else float("-inf")


@torch.no_grad()
def layer_sqnr(
    traced: fx.GraphModule, student: fx.GraphModule, X: Tensor
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Signal-to-quantization-noise ratio of every layer's output, in decibels, and the outputs of both networks.

    Parameters
    ----------
    traced, student : GraphModule
        The float network and the one with quantisers.
    X : Tensor of shape (n_records, ...)

    Returns
    -------
    sqnr : dict of layer name to float
        Of the layer's own output, with all that was quantised before it.
    logits, quantised_logits : Tensor of shape (n_records, n_classes)
    """
    name_of = {node.name: node.target for node in layer_nodes(traced)}
    (result,) = next(n for n in traced.graph.nodes if n.op == "output").all_input_nodes
    powers = {name: np.zeros(2) for name in name_of.values()}
    outputs: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part in X.split(CHUNK):
        truth = walk(traced, part)
        for name, value in walk(student, part):
            if name.startswith("quant_") and name not in name_of and _is_quantiser(student, name):
                continue
            other, exact = next(truth)
            assert other == name, (other, name)
            if name in name_of:
                noise = (exact - value).double().square().sum().item()
                powers[name_of[name]] += (exact.double().square().sum().item(), noise)
            if name == result.name:
                outputs[0].append(exact)
                outputs[1].append(value)
    sqnr = {name: decibels(*power) for name, power in powers.items()}
    return sqnr, torch.cat(outputs[0]), torch.cat(outputs[1])


def _is_quantiser(student: fx.GraphModule, name: str) -> bool:
    node = next(n for n in student.graph.nodes if n.name == name)
    return isinstance(module_of(student, node), LSQActivation)


def layer_table(
    traced: fx.GraphModule,
    student: fx.GraphModule,
    records: list[tuple[Unit, UnitRecord]],
    images: Tensor,
) -> pd.DataFrame:
    """A row a layer; columns as in ``GenieQuantizer.layers_``."""
    sqnr, _, _ = layer_sqnr(traced, student, images[:MEASURED])
    unit_of = {name: (unit, record) for unit, record in records for name in unit.layers}
    rows = []
    for node in student.graph.nodes:
        module = module_of(student, node)
        if not isinstance(module, QuantizedLayer):
            continue
        name, quantizer = node.target, module.quantizer
        read = _grid_read(student, node)
        unit, record = unit_of.get(name, (None, None))
        codes = quantizer.codes().detach().to(torch.uint8)
        rows.append(
            {
                "name": name,
                "kind": type(module.layer).__name__,
                "unit": unit.name if unit else name,
                "n_weights": module.layer.weight.numel(),
                "n_bits_w": quantizer.n_bits,
                "n_bits_a": np.nan if read is None else read.n_bits,
                "step": quantizer.step.mean().item(),
                "step_a": np.nan if read is None else read.step.item(),
                "clipped": quantizer.clipped,
                "flipped": (codes != quantizer.nearest).double().mean().item(),
                "undecided": np.nan if record is None else record.undecided[name],
                "start_loss": np.nan if record is None else record.start_loss,
                "soft_loss": np.nan if record is None else record.soft_loss,
                "hard_loss": np.nan if record is None else record.hard_loss,
                "sqnr_db": sqnr[name],
            }
        )
    return pd.DataFrame(rows)


def _grid_read(student: fx.GraphModule, node: fx.Node) -> LSQActivation | None:
    """The quantiser through which a layer's input came, past what only hands it on."""
    source = node.args[0]
    while source.op != "placeholder":
        module = module_of(student, source)
        if isinstance(module, LSQActivation):
            return module
        if isinstance(module, QuantizedLayer) or len(source.all_input_nodes) != 1:
            return None
        (source,) = source.all_input_nodes
    return None


def divergence(logits: Tensor, others: Tensor) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the second classes' probabilities from the first."""
    p, q = (torch.log_softmax(t.double(), 1) for t in (logits, others))
    return (p.exp() * (p - q)).sum(1).mean().clamp(min=0).item()


def allocate_bits(table: pd.DataFrame, size_budget: int) -> dict[str, int]:
    """Bits of every layer such that the weights fit a budget and the network changes least.

    What each layer costs is taken to add up. The choice is exact for that sum, by integer programming.

    Parameters
    ----------
    table : DataFrame
        Of ``GenieQuantizer.sensitivity``: name, n_bits, bytes, kl.
    size_budget : int
        Bytes of all weights together, packed.

    Returns
    -------
    dict of layer name to int

    Raises
    ------
    ValueError
        If not even the fewest bits fit.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"name": ["a", "a", "b", "b"], "n_bits": [2, 4, 2, 4], "bytes": [10, 20, 10, 20], "kl": [3.0, 1.0, 0.2, 0.1]}
    ... )
    >>> allocate_bits(table, 30)
    {'a': 4, 'b': 2}
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    size_budget = check_integer("size_budget", size_budget, low=1)
    least = int(table.groupby("name")["bytes"].min().sum())
    if least > size_budget:
        raise ValueError(
            f"size_budget must be at least {least}, the bytes of all weights at the fewest bits, got {size_budget}"
        )
    names = list(dict.fromkeys(table["name"]))
    one_each = np.array([(table["name"] == name).to_numpy(float) for name in names])
    size = table["bytes"].to_numpy(float)
    # among equal losses the smaller; too little to outweigh any difference that matters
    cost = table["kl"].to_numpy(float)
    cost = cost + 1e-9 * max(cost.max(), 1e-12) * size / size.max()
    solved = milp(
        cost / max(cost.max(), 1e-300),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(size[None], -np.inf, size_budget),
        ],
        integrality=np.ones(len(table)),
        bounds=Bounds(0, 1),
    )
    if not solved.success:
        raise RuntimeError(f"the integer program was not solved: {solved.message}")
    chosen = table[solved.x > 0.5]
    return {name: int(n) for name, n in zip(chosen["name"], chosen["n_bits"], strict=True)}


class Diagnostics:
    """Tables and further forms of a fitted quantizer."""

    def summary(self) -> Summary:
        """The layers as a table.

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``.
        """
        check_is_fitted(self, "layers_")
        rows, names = [], []
        for row in self.layers_.itertuples():
            names.append(row.name)
            rows.append(
                [
                    f"{row.n_weights}",
                    f"{row.n_bits_w}",
                    "-" if np.isnan(row.n_bits_a) else f"{row.n_bits_a:.0f}",
                    f"{row.flipped:.1%}",
                    "-" if np.isnan(row.undecided) else f"{row.undecided:.1%}",
                    "-" if np.isnan(row.soft_loss) else f"{row.soft_loss:.3g}",
                    "-" if np.isnan(row.hard_loss) else f"{row.hard_loss:.3g}",
                    f"{row.sqnr_db:.1f}",
                ]
            )
        header = ["weights", "bits", "bits in", "flipped", "undecided", "soft loss", "hard loss"]
        method = self.method if isinstance(self.method, str) else type(self.method).__name__
        source = "real records" if self.synthetic_data_ is None else f"{self.data!r} images"
        summary = Summary()
        summary.tables.append(
            SimpleTable(
                rows,
                [*header, "SQNR (dB)"],
                names,
                title=f"GenieQuantizer: {method!r} on {source}, placement {self.placement!r}",
                txt_fmt=fmt_params,
            )
        )
        whole = storage.float_bytes(self.float_model_)
        summary.add_extra_txt(
            [
                f"{self.size_bytes_} bytes, {whole / self.size_bytes_:.1f} times fewer than the {whole} in floats; "
                f"{self.undecided_:.1%} of the roundings undecided.",
                "Flipped: not rounded to nearest. Losses are those of the layer's unit. Bits in: of what the layer reads.",
                "model_ simulates in floats; export_onnx with placement='deployable' makes what runs in integers.",
            ]
        )
        return summary

    def compare(self, X: ArrayLike | None = None, level: float = 0.95) -> pd.DataFrame:
        """The quantised against the float network, layer by layer and in its decisions.

        Parameters
        ----------
        X : array-like of shape (n_records, ...), optional
            No labels are needed. By default the synthetic images, on which the network was fitted and which flatter it.
        level : float, default=0.95
            Confidence level of Wilson's interval for the agreement.

        Returns
        -------
        DataFrame
            A row a layer and a last one named "output": name, sqnr_db; and for the output agreement (share of records with the same
            class), conf_low, conf_high and kl (mean divergence from the float network's probabilities, in nats).
        """
        check_is_fitted(self, "model_")
        level = check_level(level)
        X = self._given_or_made(X)
        sqnr, exact, quantised = layer_sqnr(self.float_model_, self.model_, X)
        table = pd.DataFrame({"name": list(sqnr), "sqnr_db": list(sqnr.values())})
        same = int((exact.argmax(1) == quantised.argmax(1)).sum())
        low, high = proportion_confint(same, len(X), alpha=1 - level, method="wilson")
        last = {
            "name": "output",
            "sqnr_db": decibels(
                exact.double().square().sum().item(),
                (exact - quantised).double().square().sum().item(),
            ),
            "agreement": same / len(X),
            "conf_low": low,
            "conf_high": high,
            "kl": divergence(exact, quantised),
        }
        return pd.concat([table, pd.DataFrame([last])], ignore_index=True)

    @torch.no_grad()
    def sensitivity(
        self, bits: Sequence[int] = (2, 4, 8), X: ArrayLike | None = None, n_records: int = MEASURED
    ) -> pd.DataFrame:
        """What quantising the weights of one layer alone does to the network.

        Parameters
        ----------
        bits : sequence of int, default=(2, 4, 8)
        X : array-like of shape (n_records, ...), optional
            By default the synthetic images.
        n_records : int, default=64
            Of which so many are used.

        Returns
        -------
        DataFrame
            A row for each layer and number of bits: name, n_bits, n_weights, bytes (of the packed weights, with step and zero-point of every
            channel), kl (mean divergence of the classes' probabilities, in nats), sqnr_db (of the output). Weights are
            rounded to nearest, all else stays in floats.
        """
        check_is_fitted(self, "model_")
        bits = [check_integer("bits", n, 2, 8) for n in bits]
        if not bits:
            raise ValueError("bits must hold at least one number of bits")
        X = self._given_or_made(X)[: check_integer("n_records", n_records, low=1)]
        network = self.float_model_
        exact = network(X)
        rows = []
        for node in layer_nodes(network):
            layer = module_of(network, node)
            trained = layer.weight.detach().clone()
            for n in bits:
                step, zero = search_step(
                    trained, n, self.init_p, per_channel=True, symmetric=n == 8
                )
                wide = (-1, *[1] * (trained.ndim - 1))
                step, zero = step.reshape(wide), zero.reshape(wide)
                codes = (torch.round(trained / step) + zero).clamp(0, 2**n - 1)
                layer.weight.copy_(step * (codes - zero))
                try:
                    changed = network(X)
                finally:
                    layer.weight.copy_(trained)
                signal = exact.double().square().sum().item()
                noise = (exact - changed).double().square().sum().item()
                rows.append(
                    {
                        "name": node.target,
                        "n_bits": n,
                        "n_weights": trained.numel(),
                        "bytes": -(-trained.numel() * n // 8) + 5 * len(trained),
                        "kl": divergence(exact, changed),
                        "sqnr_db": decibels(signal, noise),
                    }
                )
        return pd.DataFrame(rows)

    def mixed_precision(
        self, size_budget: int, bits: Sequence[int] = (2, 3, 4, 6, 8), X: ArrayLike | None = None
    ) -> dict[str, int]:
        """Bits of every layer for a new fit, such that all weights fit a budget.

        Parameters
        ----------
        size_budget : int
            Bytes of all weights together, packed, with steps and zero-points.
        bits : sequence of int, default=(2, 3, 4, 6, 8)
            What can be chosen.
        X : array-like of shape (n_records, ...), optional
            As in `sensitivity`.

        Returns
        -------
        dict of layer name to int
            For ``n_bits_w``; see `allocate_bits`.
        """
        return allocate_bits(self.sensitivity(bits, X), size_budget)

    @torch.no_grad()
    def class_histogram(self, X: ArrayLike | None = None) -> pd.DataFrame:
        """Which classes the float network sees in the images.

        Parameters
        ----------
        X : array-like of shape (n_records, ...), optional
            By default the synthetic images: no class is asked for when they are made, and a lopsided histogram is a warning.

        Returns
        -------
        DataFrame
            A row a class: class, n, share, mean_probability (of that class, where it is the most probable). ``attrs["entropy"]`` is that of the
            shares over its largest value, log(n_classes).
        """
        check_is_fitted(self, "model_")
        logits = torch.cat([self.float_model_(p) for p in self._given_or_made(X).split(CHUNK)])
        p = torch.softmax(logits.double(), 1).cpu().numpy()
        best = p.argmax(1)
        n = np.bincount(best, minlength=len(self.classes_))
        sums = np.bincount(best, weights=p.max(1), minlength=len(n))
        table = pd.DataFrame(
            {
                "class": self.classes_,
                "n": n,
                "share": n / n.sum(),
                "mean_probability": np.where(n > 0, sums / np.maximum(n, 1), np.nan),
            }
        )
        shares = table["share"][table["share"] > 0]
        table.attrs["entropy"] = float(-(shares * np.log(shares)).sum() / np.log(len(n)))
        return table

    def _given_or_made(self, X: ArrayLike | None) -> Tensor:
        if X is None:
            if self.synthetic_data_ is None:
                raise ValueError(
                    "X must be given: the quantizer was fitted on real records, which it does not keep"
                )
            X = self.synthetic_data_
        X = self._as_records(X)
        if tuple(X.shape[1:]) != self.input_shape_:
            raise ValueError(
                f"X must hold records of shape {self.input_shape_}, got {tuple(X.shape[1:])}"
            )
        return X

    # --- deployment -------------------------------------------------------------------------------------

    def to_integer(self) -> IntegerNetwork:
        """The quantised network computing in integers, exactly: the reference for every other runtime.

        Returns
        -------
        IntegerNetwork
        """
        from .integer import IntegerNetwork

        return IntegerNetwork(self.to_graph())

    def export_onnx(
        self,
        path: str | os.PathLike,
        weight_storage: str = "int4",
        *,
        opset: int = 21,
        check: bool = True,
        X: ArrayLike | None = None,
    ) -> ExportReport:
        """Write the quantised network into an ONNX file that onnxruntime runs in integers if `placement` is "deployable".

        Parameters
        ----------
        path : path
        weight_storage : {"int4", "int8"}, default="int4"
        opset : int, default=21
        check : bool, default=True
            Whether the file is run and compared with the integer reference, code by code.
        X : array-like of shape (n_records, ...), optional
            What it is compared on; by default a few of the synthetic images.

        Returns
        -------
        ExportReport
            Size, operations, parity and latency; see `statml.adapters.quantization.export_onnx`.
        """
        from .onnx_export import export_onnx

        if X is None and self.synthetic_data_ is not None:
            X = self.synthetic_data_[:8]
        storage_of: dict[str, Any] = {"weight_storage": weight_storage, "opset": opset}
        return export_onnx(self.to_graph(), path, check=check, X=X, **storage_of)
