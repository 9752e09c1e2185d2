r"""Data for methods that mix losses: noisy labels, and teachers that know different classes.

Classes are Gaussian clouds :math:`N(\mu_c, I)` with means of length `separation` in random directions. A teacher knows some classes and is
the Bayes rule among them,

.. math::  z_c(x) = \mu_c^\top x - \|\mu_c\|^2 / 2,

and gives a class that it does not know `gap` less than the least of these: it is right on its own classes, and confident and wrong on all others.

References
----------
Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
losses in supervised learning. AAAI.
"""

from __future__ import annotations

import numpy as np
from sklearn.utils import Bunch

from .._validation import RandomState, as_generator, check_integer, check_number


def make_conflicting_teachers(
    n: int = 2000,
    n_classes: int = 6,
    n_features: int = 10,
    n_teachers: int = 2,
    noise: float = 0.4,
    separation: float = 3.0,
    gap: float = 4.0,
    random_state: RandomState = None,
) -> Bunch:
    r"""Simulate classes with noisy labels, and teachers each of which knows a part of the classes.

    Parameters
    ----------
    n : int, default=2000
    n_classes : int, default=6
        At least `n_teachers`; class c belongs to teacher c modulo `n_teachers`.
    n_features : int, default=10
    n_teachers : int, default=2
    noise : float in [0, 1], default=0.4
        Share of the labels that are drawn anew, uniformly over all classes, so that one in `n_classes` of these is right after all.
    separation : float, default=3.0
        Length of the means of the classes, in standard deviations.
    gap : float, default=4.0
        How far below its own classes a teacher puts the others, in logits.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    Bunch
        ``X`` (n, n_features), ``y`` (noisy labels), ``y_true``, ``clean`` (where both agree), ``teachers`` (list of logits (n, n_classes)),
        ``knows`` (n, n_teachers), whose class is the teacher's own, and ``means`` (n_classes, n_features).

    Examples
    --------
    >>> from statml.datasets import make_conflicting_teachers
    >>> data = make_conflicting_teachers(n=3000, random_state=0)
    >>> right = [(logits.argmax(axis=1) == data.y_true) for logits in data.teachers]
    >>> bool(right[0][data.knows[:, 0]].mean() > 0.9), float(right[0][~data.knows[:, 0]].mean())
    (True, 0.0)
    >>> bool(abs(data.clean.mean() - (0.6 + 0.4 / 6)) < 0.03)
    True
    """
    n = check_integer("n", n, low=2)
    n_teachers = check_integer("n_teachers", n_teachers, low=1)
    n_classes = check_integer("n_classes", n_classes, low=max(2, n_teachers))
    n_features = check_integer("n_features", n_features, low=1)
    noise = check_number("noise", noise, 0, 1)
    separation = check_number("separation", separation, 0, low_open=True)
    gap = check_number("gap", gap, 0)
    rng = as_generator(random_state)
    means = rng.standard_normal((n_classes, n_features))
    means *= separation / np.linalg.norm(means, axis=1, keepdims=True)
    y_true = rng.integers(n_classes, size=n)
    X = means[y_true] + rng.standard_normal((n, n_features))
    redrawn = rng.random(n) < noise
    y = np.where(redrawn, rng.integers(n_classes, size=n), y_true)
    scores = X @ means.T - separation**2 / 2
    owner = np.arange(n_classes) % n_teachers
    teachers = []
    for t in range(n_teachers):
        own = scores[:, owner == t]
        logits = np.repeat(own.min(axis=1, keepdims=True) - gap, n_classes, axis=1)
        logits[:, owner == t] = own
        teachers.append(logits)
    return Bunch(
        X=X,
        y=y,
        y_true=y_true,
        clean=y == y_true,
        teachers=teachers,
        knows=owner[y_true][:, None] == np.arange(n_teachers),
        means=means,
    )
