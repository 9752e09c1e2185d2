"""Data sets: ``load_*`` ship with the package, ``fetch_*`` download once, ``make_*`` simulate.

A download goes into a cache folder, ``$STATML_CACHE`` or ``~/.cache/statml``, after its SHA-256 checksum was
compared. Where the environment variable STATML_DATA names a folder, files found there are used first.
"""

from ._attribute_images import fetch_cifar10c, make_attribute_images
from ._group_robust import (
    fetch_adult,
    fetch_compas,
    make_colored_digits,
    make_overparameterized_spurious,
    make_spurious_gaussians,
)
from ._images import fetch_fashion_mnist
from ._latent_classes import corrupt_images, make_latent_classes
from ._loss_mixing import make_conflicting_teachers
from ._networks import fetch_bitcoin_alpha, fetch_bitcoin_otc, load_sampson
from ._pretrained import fetch_mobilenet_v2_weights
from ._private import load_berkeley_admissions
from ._signed_networks import make_signed_network
from ._spoken_digits import fetch_spoken_digits
from ._weak_supervision import (
    fetch_mit_restaurants,
    fetch_sms_spam,
    fetch_trec_questions,
    fetch_youtube_spam,
    make_weak_labels,
)

__all__ = [
    "corrupt_images",
    "fetch_adult",
    "fetch_bitcoin_alpha",
    "fetch_bitcoin_otc",
    "fetch_cifar10c",
    "fetch_compas",
    "fetch_fashion_mnist",
    "fetch_mit_restaurants",
    "fetch_mobilenet_v2_weights",
    "fetch_sms_spam",
    "fetch_spoken_digits",
    "fetch_trec_questions",
    "fetch_youtube_spam",
    "load_berkeley_admissions",
    "load_sampson",
    "make_attribute_images",
    "make_colored_digits",
    "make_conflicting_teachers",
    "make_latent_classes",
    "make_overparameterized_spurious",
    "make_signed_network",
    "make_spurious_gaussians",
    "make_weak_labels",
]
