"""A quantised network in one file: weights as packed codes, nothing executable.

A code of n bits takes n bits. What is not quantised (biases, normalisations) is kept in floats. The file holds no architecture: the network is
handed over again when it is read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from statml._plain import from_plain, to_plain

from .._files import read_model, write_model
from .placement import Bits, build_student
from .quantizers import LSQActivation, QuantizedLayer, WeightQuantizer
from .tracing import fix_shapes, trace

if TYPE_CHECKING:
    from .estimator import GenieQuantizer

FORMAT = "statml quantised network 1"
LEFT_OUT = ("progress", "checkpoint_dir", "random_state", "device")
FITTED = ("undecided_", "size_bytes_", "fit_time_", "input_shape_", "n_features_in_", "classes_")


def pack_codes(codes: NDArray[np.uint8], n_bits: int) -> NDArray[np.uint8]:
    """Codes of n bits each, lowest bit first, as bytes.

    Examples
    --------
    >>> import numpy as np
    >>> packed = pack_codes(np.array([1, 2, 3, 0, 1], dtype=np.uint8), 2)
    >>> packed.nbytes, unpack_codes(packed, 2, 5)
    (2, array([1, 2, 3, 0, 1], dtype=uint8))
    """
    bits = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little")[:, :n_bits]
    return np.packbits(bits.reshape(-1), bitorder="little")


def unpack_codes(packed: NDArray[np.uint8], n_bits: int, n: int) -> NDArray[np.uint8]:
    """What `pack_codes` packed."""
    bits = np.unpackbits(packed, bitorder="little", count=n * n_bits).reshape(n, n_bits)
    return np.packbits(bits, axis=1, bitorder="little").reshape(-1)


def _parts(student: fx.GraphModule):
    layers = {n: m for n, m in student.named_modules() if isinstance(m, QuantizedLayer)}
    activations = {n: m for n, m in student.named_modules() if isinstance(m, LSQActivation)}
    quantised = {f"{name}.layer.weight" for name in layers}
    own = tuple(f"{name}.quantizer." for name in layers) + tuple(f"{n}." for n in activations)
    rest = {
        name: value
        for name, value in student.state_dict().items()
        if name not in quantised and not name.startswith(own)
    }
    return layers, activations, rest


def as_tensors(student: fx.GraphModule) -> dict[str, Tensor]:
    """All that a quantised network consists of."""
    layers, activations, rest = _parts(student)
    tensors = {f"float.{name}": value for name, value in rest.items()}
    for name, module in layers.items():
        quantizer = module.quantizer
        codes = quantizer.codes().detach().cpu().numpy().astype(np.uint8)
        tensors[f"codes.{name}"] = torch.from_numpy(pack_codes(codes, quantizer.n_bits))
        tensors[f"step.{name}"] = quantizer.step.detach().reshape(-1)
        tensors[f"zero.{name}"] = quantizer.zero_point.reshape(-1).to(torch.uint8)
    for name, module in activations.items():
        tensors[f"tensor.{name}"] = torch.stack([module.step.detach(), module.zero_point])
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def stored_bytes(student: fx.GraphModule) -> int:
    """Bytes of all tensors of a quantised network, codes packed."""
    return sum(t.numel() * t.element_size() for t in as_tensors(student).values())


def float_bytes(traced: nn.Module) -> int:
    """Bytes of all tensors of a network."""
    return sum(t.numel() * t.element_size() for t in traced.state_dict().values())


def save(quantizer: GenieQuantizer, path: str | os.PathLike) -> None:
    """Write a fitted quantizer; see `GenieQuantizer.save`."""
    tensors = as_tensors(quantizer.model_)
    layers, activations, _ = _parts(quantizer.model_)
    parameters = {k: v for k, v in quantizer.get_params(deep=False).items() if k not in LEFT_OUT}
    if not isinstance(parameters["method"], str):
        raise TypeError(
            f"method is a {type(parameters['method']).__name__}, which cannot be written; name one of the methods to save the result"
        )
    if not isinstance(parameters["n_bits_w"], int):
        parameters["n_bits_w"] = {k: int(v) for k, v in parameters["n_bits_w"].items()}
    fitted = {name: getattr(quantizer, name) for name in FITTED}
    for name in ("layers_", "distill_loss_"):
        table = getattr(quantizer, name)
        fitted[name] = {c: _column(table[c]) for c in table.columns}
    fitted["synthetic_data_"] = quantizer.synthetic_data_
    arrays: list[np.ndarray] = []
    header = {
        "parameters": to_plain(parameters, arrays, "the parameters"),
        "fitted": to_plain(fitted, arrays, "what fit learned"),
        "bits": {name: m.quantizer.n_bits for name, m in layers.items()},
        "low": {name: m.quantizer.low for name, m in layers.items()},
        "shapes": {name: list(m.quantizer.base.shape) for name, m in layers.items()},
        "tensor_bits": {name: m.n_bits for name, m in activations.items()},
    }
    tensors |= {f"array.{k}": torch.from_numpy(np.array(a)) for k, a in enumerate(arrays)}
    write_model(path, FORMAT, tensors, header)


def load(cls: type, path: str | os.PathLike, model: nn.Module) -> Any:
    """Read a fitted quantizer; see `GenieQuantizer.load`."""
    tensors, header = read_model(path, FORMAT, "GenieQuantizer.save")
    n_arrays = sum(name.startswith("array.") for name in tensors)
    arrays = [tensors[f"array.{k}"].numpy() for k in range(n_arrays)]
    quantizer = cls(**from_plain(header["parameters"], arrays))
    for name, value in from_plain(header["fitted"], arrays).items():
        setattr(quantizer, name, value)
    quantizer.input_shape_ = tuple(quantizer.input_shape_)
    for name in ("layers_", "distill_loss_"):
        setattr(quantizer, name, pd.DataFrame(getattr(quantizer, name)))
    traced = trace(model)
    fix_shapes(traced, quantizer.input_shape_)
    bits = Bits(
        header["bits"],
        quantizer.n_bits_a,
        quantizer.first_last_bits,
        quantizer.second_input_bits,
    )
    try:
        student = build_student(traced, quantizer.placement, bits)
        fill(student, tensors, header)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} does not fit the network given: {error}") from error
    quantizer.float_model_, quantizer.model_ = traced, student
    return quantizer


@torch.no_grad()
def fill(student: fx.GraphModule, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Put the tensors of a file into a network with empty quantisers."""
    layers, activations, rest = _parts(student)
    if set(layers) != set(header["bits"]) or set(activations) != set(header["tensor_bits"]):
        raise ValueError("it has other layers")
    state = {name: tensors[f"float.{name}"] for name in rest}
    student.load_state_dict(state, strict=False)
    for name, module in layers.items():
        shape, n = tuple(header["shapes"][name]), header["bits"][name]
        if shape != tuple(module.layer.weight.shape):
            raise ValueError(f"layer {name!r} has shape {tuple(module.layer.weight.shape)}")
        codes = unpack_codes(tensors[f"codes.{name}"].numpy(), n, int(np.prod(shape)))
        step, zero = tensors[f"step.{name}"], tensors[f"zero.{name}"].float()
        module.quantizer = WeightQuantizer(
            torch.zeros(shape), n, step, zero, low=header["low"][name]
        )
        module.quantizer.set_codes(torch.from_numpy(codes).float().reshape(shape))
        module.layer.weight.copy_(module.quantizer())  # the trained ones are not in the file
        module.freeze()
    for name, module in activations.items():
        module.n_bits = header["tensor_bits"][name]
        module.set_grid(*tensors[f"tensor.{name}"])
    for parameter in student.parameters():
        parameter.requires_grad_(False)


def _column(values: pd.Series) -> Any:
    return [str(v) for v in values] if values.dtype.kind in "OUT" else values.to_numpy()
