"""MobileNetV2 to integers without data: agreement with the float network, size, time; against onnxruntime's own quantizer with real images.

    python benchmarks/quantization_deployment.py         # about five minutes of CPU on one core

Data-free W8A8, in four steps: channels are equalised (`equalize`), eight images of 224 x 224 pixels are made from the normalisations (pixels, 40
iterations, within the range that pixels can have), grids of least squared error are searched on them, weights are rounded so that sums are kept
(`keep_sums`). The peer calibrates on eleven real crops. Agreement is top-1 with the float network on crops of photographs that ship with scikit-image
and scikit-learn, which no step has seen: what there was to choose was chosen on crops of nine grey pictures that are not among them. Crops of one
photograph are alike, so that the Wilson intervals, which take crops as independent, are too narrow. All times are of one run, in turns, one thread,
batch 1.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_sample_images
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.deployment_report import time_sessions
from statml.adapters.quantization.equalization import equalize
from statml.adapters.quantization.networks import INPUT_STATS, as_input, mobilenet_v2
from statml.adapters.quantization.onnx_export import build_model
from statml.adapters.quantization.parity import compare_codes
from statml.adapters.quantization.runtime import count_operations, open_session, run_session
from statml.adapters.quantization.sum_rounding import keep_sums
from statsmodels.stats.proportion import proportion_confint

torch.set_num_threads(1)
warnings.simplefilter("ignore")
SIDE, N_CROPS = 224, 198


def photographs() -> list[np.ndarray]:
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
    names += ("immunohistochemistry", "retina")
    left, right, _ = data.stereo_motorcycle()
    return [getattr(data, name)() for name in names] + [left, right, *load_sample_images().images]


def crops(n: int, kind: str, seed: int) -> torch.Tensor:
    """Random crops, half of them mirrored: of the image at 256 pixels, as ImageNet is evaluated, or of 40 to 100 % of its side."""
    from skimage.transform import resize

    rng, images, out = np.random.default_rng(seed), photographs(), []
    for k in range(n):
        image = images[k % len(images)]
        short = min(image.shape[:2])
        side = round(short * (SIDE / 256 if kind == "standard" else rng.uniform(0.4, 1)))
        i, j = (rng.integers(s - side + 1) for s in image.shape[:2])
        crop = resize(image[i : i + side, j : j + side], (SIDE, SIDE), anti_aliasing=True)
        out.append((crop[:, ::-1] if rng.random() < 0.5 else crop).clip(0, 1))
    return as_input(np.stack(out).astype(np.float32), "imagenet")


def peer(model: torch.nn.Module, folder: Path) -> tuple[Path, Path]:
    """The float network as torch exports it, and what onnxruntime's quantize_static makes of it with real images."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    path, quantised = folder / "float.onnx", folder / "static.onnx"
    example = torch.randn(2, 3, SIDE, SIDE)
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, input_names=["input"])  # fmt: skip
    program.save(path, external_data=False)

    class Reader(CalibrationDataReader):
        images = iter(crops(11, "zoomed", seed=9).numpy())

        def get_next(self):
            x = next(self.images, None)
            return None if x is None else {"input": x[None]}

    quantize_static(
        path, quantised, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path, quantised


def main() -> None:
    model = mobilenet_v2("imagenet")
    test = {kind: crops(N_CROPS, kind, seed=200) for kind in ("standard", "zoomed")}
    with torch.no_grad():
        truth = {k: torch.cat([model(b) for b in x.split(20)]).numpy() for k, x in test.items()}

    def agreement(content) -> dict:
        session, row = open_session(content), {}
        for kind, x in test.items():
            out = np.concatenate([run_session(session, b.numpy())[0] for b in x.split(20)])
            same = out.argmax(1) == truth[kind].argmax(1)
            low, high = proportion_confint(same.sum(), len(same), method="wilson")
            row[kind] = f"{same.mean():.1%} ({low:.1%} to {high:.1%})"
        return row

    rows, files = [], {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files["float, torch's export"], files["quantize_static, real images"] = peer(model, folder)
        start = time.process_time()
        equal = equalize(model)
        mean, std = (np.array(numbers) for numbers in INPUT_STATS["imagenet"])
        pixels = (0.0, 1.0, (-mean / std).min(), ((1 - mean) / std).max())  # of black and white
        how = {"placement": "deployable", "method": "rtn-mse", "init_p": 2.0, "input_stats": pixels}
        how |= {"data": "dba", "n_samples": 8}
        how |= {"distill_batch": 8, "distill_iter": 40, "recon_batch": 8, "random_state": 0}
        quantizer = GenieQuantizer(8, 8, **how).fit(equal, input_shape=(3, SIDE, SIDE))
        images = quantizer.synthetic_data_
        plain = GenieQuantizer(8, 8, **how).fit(model, images).to_graph()
        before = quantizer.to_graph()
        keep_sums(quantizer.model_)
        graphs = {
            "W8A8, nothing but grids": plain,
            "W8A8, equalised": before,
            "W8A8, equalised, sums kept": quantizer.to_graph(),
        }
        four = GenieQuantizer(4, 8, **how).fit(equal, images)
        keep_sums(four.model_)
        graphs["W4A8, equalised, sums kept"] = four.to_graph()
        seconds = time.process_time() - start
        for name, graph in graphs.items():
            files[name] = build_model(graph, weight_storage="int4").SerializeToString()
        for name, content in files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            ops = count_operations(content).groupby("arithmetic")["count"].sum()
            rows.append(
                {"network": name, "MB": size / 1e6, "integer layers": ops.get("integer", 0), "float layers": ops.get("float", 0)}
                | agreement(content)
            )  # fmt: skip
        table = pd.DataFrame(rows)
        chosen = {k: files[k] for k in ("float, torch's export", "quantize_static, real images", "W8A8, equalised, sums kept", "W4A8, equalised, sums kept")}  # fmt: skip
        times = time_sessions(chosen, test["standard"][:1].numpy(), n_repeats=31)
        times = times.rename(columns={"form": "network", "speedup": "times as fast"})
        table = table.merge(times[["network", "median_ms", "times as fast"]], how="left")
        table["share of float"] = table["MB"] / table["MB"].iloc[0]
        print(table.to_markdown(index=False, floatfmt=".3g"))
        report = compare_codes(graphs["W8A8, equalised, sums kept"], images[:2])
        print(
            f"\nParity: {report}\nFour quantisations and their images took {seconds:.0f} s of CPU."
        )


if __name__ == "__main__":
    main()
