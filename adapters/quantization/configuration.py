"""What the parameters of `GenieQuantizer` come to: checked, with presets and "auto" replaced by numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from statml._validation import check_choice, check_integer, check_number
from statml.parallel import check_progress

from .placement import PLACEMENTS, Bits
from .reconstruction import Settings
from .rounding import ROUNDINGS, Learning, Rounding
from .statistics import as_input_stats
from .synthesizers import SYNTHESIZERS, Request, Synthesizer

if TYPE_CHECKING:
    from .estimator import GenieQuantizer

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "n_samples": 256,
        "distill_batch": 128,
        "distill_iter": 300,
        "generator_channels": (64, 32),
        "recon_iter": 500,
    },
    "paper": {
        "n_samples": 1024,
        "distill_batch": 128,
        "distill_iter": 4000,
        "generator_channels": (128, 64),
        "recon_iter": 20000,
    },
}
LEAST = {"n_samples": 2, "distill_batch": 2, "distill_iter": 0, "recon_iter": 0}
DECIDED_AT = 4.0  # how far a rounding can move once the warm-up is over, at the least


@dataclass(frozen=True)
class Configuration:
    """A run, but for the network and its inputs.

    Parameters
    ----------
    bits : Bits
    rounding : Rounding
        Where grids come from.
    learning : Learning or None
        What is learnt after that; None: nothing.
    settings : Settings
        How it is learnt.
    init_p : float
        Power of the error that grids are searched for.
    synthesizer : Synthesizer
        What makes images.
    n_samples, distill_batch, swing : int
        How many, how many at a time, and shifted by how much.
    request : dict of str to object
        Numbers of a `Request`.
    input_stats : object
        As given: what it may be depends on the number of channels.
    """

    bits: Bits
    rounding: Rounding
    learning: Learning | None
    settings: Settings
    init_p: float
    synthesizer: Synthesizer
    n_samples: int
    distill_batch: int
    swing: int
    request: dict[str, Any]
    input_stats: Any

    def request_for(self, shape: tuple[int, ...]) -> Request:
        """What images of a shape have to be like."""
        mean, std, limits = as_input_stats(self.input_stats, shape[0])
        return Request(shape, mean=mean, std=std, limits=limits, **self.request)


def configure(quantizer: GenieQuantizer) -> Configuration:
    """Check the parameters of a quantizer.

    Parameters
    ----------
    quantizer : GenieQuantizer
        Fitted or not.

    Returns
    -------
    Configuration

    Raises
    ------
    TypeError, ValueError
        If a parameter is not taken; says which, what came, and what is taken.
    """
    q = quantizer
    check_progress(q.progress)
    check_choice("placement", q.placement, PLACEMENTS)
    check_choice("data", q.data, SYNTHESIZERS)
    preset = PRESETS[check_choice("preset", q.preset, PRESETS)]
    given = {name: getattr(q, name) for name in preset}
    numbers = {name: preset[name] if v is None else v for name, v in given.items()}
    for name, least in LEAST.items():
        check_integer(name, numbers[name], low=least)
    first, second = numbers["generator_channels"]
    request = {
        "distill_iter": numbers["distill_iter"],
        "lr_z": check_number("lr_z", q.lr_z, 0),
        "lr_g": check_number("lr_g", q.lr_g, 0),
        "latent_dim": check_integer("latent_dim", q.latent_dim, low=1),
        "generator_channels": (
            check_integer("generator_channels[0]", first, low=1),
            check_integer("generator_channels[1]", second, low=1),
        ),
        "device": q.device,
    }
    if isinstance(q.method, Rounding):
        rounding = q.method
    else:
        rounding = ROUNDINGS[check_choice("method", q.method, ROUNDINGS)]()
    learning = rounding.learning
    check_choice("granularity", q.granularity, ("block", "layer", "auto"))
    if learning is not None and q.granularity != "auto":
        learning = replace(learning, granularity=q.granularity)
    settings = _settings(q, numbers["recon_iter"], learning)
    return Configuration(
        bits=Bits(q.n_bits_w, q.n_bits_a, q.first_last_bits, q.second_input_bits),
        rounding=rounding,
        learning=learning if settings.recon_iter else None,
        settings=settings,
        init_p=check_number("init_p", q.init_p, 0, low_open=True),
        synthesizer=SYNTHESIZERS[q.data](),
        n_samples=numbers["n_samples"],
        distill_batch=numbers["distill_batch"],
        swing=check_integer("swing", q.swing, low=0),
        request=request,
        input_stats=q.input_stats,
    )


def _settings(q: GenieQuantizer, recon_iter: int, learning: Learning | None) -> Settings:
    """Numbers of the reconstruction; what is "auto" depends on its length and on the method."""
    auto = {
        "lr_round": max(1e-3, DECIDED_AT / (0.8 * max(recon_iter, 1))),
        "round_weight": 0.0 if learning is None else learning.round_weight,
        "drop_prob": 0.0 if learning is None else learning.drop_prob,
    }
    given = {name: getattr(q, name) for name in auto}
    values = {name: auto[name] if v == "auto" else v for name, v in given.items()}
    return Settings(
        recon_iter=recon_iter,
        recon_batch=check_integer("recon_batch", q.recon_batch, low=2),
        lr_round=check_number("lr_round", values["lr_round"], 0, low_open=True),
        lr_w_step=check_number("lr_w_step", q.lr_w_step, 0),
        lr_a_step=check_number("lr_a_step", q.lr_a_step, 0),
        round_weight=check_number("round_weight", values["round_weight"], 0),
        beta=tuple(check_number("beta", b, 0, low_open=True) for b in q.beta),
        warmup=check_number("warmup", q.warmup, 0, 1, high_open=True),
        drop_prob=check_number("drop_prob", values["drop_prob"], 0, 1),
    )
