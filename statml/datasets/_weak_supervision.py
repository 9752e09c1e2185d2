r"""Data for weak supervision: texts with the labelling rules that people wrote for them, and a simulator with known truth.

Texts and rules of SMS and TREC are those of Awasthi et al. (2020): each rule was written for one labelled sentence, its exemplar. The
simulator draws class y from a prior and lets rule j, which votes for class k_j or abstains, fire with the probability

.. math::

    P(l_j = 1 \mid y = k_j) = \frac{c_j a_j}{\pi_{k_j}}, \qquad P(l_j = 1 \mid y \ne k_j) = \frac{c_j (1 - a_j)}{1 - \pi_{k_j}},

so that it fires on a share c_j of the records (coverage) and is right in a share a_j of these (accuracy).

References
----------
Awasthi, A., Ghosh, S., Goyal, R. and Sarawagi, S. (2020). Learning from rules generalizing labeled exemplars. ICLR.
Almeida, T. A., Gomez Hidalgo, J. M. and Yamakami, A. (2011). Contributions to the study of SMS spam filtering. DocEng.
Li, X. and Roth, D. (2002). Learning question classifiers. COLING.
Alberto, T. C., Lochter, J. V. and Almeida, T. A. (2015). TubeSpam: comment spam filtering on YouTube. ICMLA.
Liu, J., Pasupat, P., Cyphers, S. and Glass, J. (2013). Asgard: a portable architecture for multilingual dialogue systems. ICASSP.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn.utils import Bunch

from .._validation import RandomState, as_generator, check_choice, check_integer, check_number
from ._base import _cache_folder, _check, fetch_file

RULES = (
    "https://raw.githubusercontent.com/awasthiabhijeet/Learning-From-Rules/"
    "206ff4744aad16375541a960f7da12ed1158a804/data"
)
YOUTUBE = (
    "https://raw.githubusercontent.com/ayushbits/robust-aggregate-lfs/"
    "6f4a69e04a04842c4d18748a17b57657b5897326/reef/data/youtube"
)
URLS = {
    "sms": f"{RULES}/SMS",
    "trec": f"{RULES}/TREC",
    "mitr": f"{RULES}/MITR/data_files",
    "youtube": YOUTUBE,
}
SHA256 = {
    "sms": {
        "rule.txt": "2dad40fd3caf91e69968ef702e437b31b969f6c2eb52b63849cd4fc65291e17c",
        "test.csv": "86df6eddd6bb1d60be73f8f077b6e798470013ad02096328c53508ee8d40981e",
        "train.csv": "ea4a8e46199dfeb199d6d55f6c0b6e209905a55c5b8b86308f9097763ed431ac",
        "valid.csv": "afbde3e1d58f01de389aa5a5f14c215832465aac62f77a79832eb1b7cec5272b",
    },
    "trec": {
        "rule.txt": "cfca36ebaaef9f0badb734f963c73c5c3d9f4c7be8d97016b427d1c5f52fb853",
        "test.txt": "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
        "train.txt": "9b4ebba4e0f508008d41a51d297426071af446794f499ac7e7c3c2b78abbcc3c",
        "valid.txt": "1f84072b274289150fc75ec91ff87a7b65fe279b5c580a068d88d077d061f76f",
    },
    "mitr": {
        "all.tags.txt": "ffc487e56e4551c1f30ffb38f2d19c5be4a097fc4df35ab42e6c2ab94055419e",
        "all.words.txt": "7332d485de17294be4507e598bfac7fe3e593b937fc54aeb7d8220650003e11b",
        "rules_center.tags.txt": "3d7b6e8d6f1e9d15bc7d7c88b463856892e432230bd507ac53e4655d63aba640",
        "rules_center.words.txt": "5292f05230871077d14836fc609abb2a432dcd39d82a3aeebc4f21d6fa62cfd3",
        "test.tags.txt": "08afc20f6a21b27118271e0bcca0d030d7bd0ee31ca87936fea10701a1d33b54",
        "test.words.txt": "f8bbaf242f7c3aa85c2e653ff3533a5e5a803f32238435c63a7d10115964b426",
    },
    "youtube": {
        "Youtube01-Psy.csv": "19797e6c77690e3c8809cfd2853ae7341390636367ba66cf5d4f4083f0b88535",
        "Youtube02-KatyPerry.csv": "902c614f8ef24f987d6f614d7e6111aa5160b89a0646b68e007bd6044a3d123b",
        "Youtube03-LMFAO.csv": "702ef589860a1831956f527760a3d9737ef8a07ab36c7de35b92b8898b8c3928",
        "Youtube04-Eminem.csv": "92f54eb6b22fdf3b7ae85e1f500e5aa7442edd025e504b988a97078756187e76",
        "Youtube05-Shakira.csv": "1d8ab47b71e8037c51183b2fc62f0591a48a4b54f3a4f5d9d3043113b274e98e",
    },
}
SMS_CLASSES = ["ham", "spam"]
TREC_CLASSES = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
TREC_LONG = ["ABBREVIATION", "DESCRIPTION", "ENTITY", "HUMAN", "LOCATION", "NUMERIC"]
YOUTUBE_RULES = [
    (1, r"\bmy\b"),
    (1, r"subscribe"),
    (1, r"https?:|www\."),
    (1, r"\b(please|plz|pls)\b"),
    (1, r"check.{0,20}\bout\b"),
    (0, r"\bsongs?\b"),
    (0, r"^\W*(\w+\W+){0,3}\w+\W*$"),
]


# --- downloads --------------------------------------------------------------------------------------


def fetch_sms_spam(data_home: str | os.PathLike | None = None) -> Bunch:
    """Text messages, spam or not, with 73 labelling rules.

    5,502 messages in lower case of the SMS Spam Collection, 13 % of them spam, and regular expressions that vote for "ham" (31) or "spam"
    (42); 40 % of the messages get a vote. The 73 sentences that the rules were written for are the labelled data.

    Licences: rules and splits Apache 2.0 (Awasthi et al.), texts CC BY 4.0 (UCI Machine Learning Repository).

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        ``texts`` (list of 4,502) and ``y`` (their labels, which a weakly supervised method must not see); ``texts_labelled`` (73),
        ``y_labelled``; ``texts_valid``, ``y_valid`` (500); ``texts_test``, ``y_test`` (500); ``rules`` (list of (label, regular
        expression)); ``classes`` (names of the labels 0 and 1).

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If a file has the wrong checksum.

    References
    ----------
    Almeida, Gomez Hidalgo and Yamakami (2011). Awasthi et al. (2020).

    Examples
    --------
    >>> from statml.datasets import fetch_sms_spam
    >>> sms = fetch_sms_spam()  # doctest: +SKIP
    >>> len(sms.texts), len(sms.rules)  # doctest: +SKIP
    (4502, 73)
    """
    bunch = _rules("sms", SMS_CLASSES, data_home)
    for part, suffix in (("train", ""), ("valid", "_valid"), ("test", "_test")):
        table = pd.read_csv(
            _find("sms", f"{part}.csv", data_home), keep_default_na=False, encoding="utf-8"
        )
        bunch[f"texts{suffix}"] = table["v2"].tolist()
        bunch[f"y{suffix}"] = _codes(table["v1"], SMS_CLASSES)
    return bunch


def fetch_trec_questions(data_home: str | os.PathLike | None = None) -> Bunch:
    """Questions by the kind of answer they ask for, with 68 labelling rules.

    5,965 questions in lower case and six classes: abbreviation, description, entity, human, location, number. The rules vote on 95 % of the
    questions, but the majority of the votes is right in half of these only.

    Licences: rules and splits Apache 2.0 (Awasthi et al.); the texts, of the Cognitive Computation Group, have been free for research and
    come without a formal licence.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        As `fetch_sms_spam`: 4,965 texts, 68 labelled, 500 for validation, 500 for the test; labels 0 to 5.

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If a file has the wrong checksum.

    References
    ----------
    Li and Roth (2002). Awasthi et al. (2020).

    Examples
    --------
    >>> from statml.datasets import fetch_trec_questions
    >>> fetch_trec_questions().classes  # doctest: +SKIP
    ['ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM']
    """
    bunch = _rules("trec", TREC_CLASSES, data_home, TREC_LONG)
    for part, suffix in (("train", ""), ("valid", "_valid"), ("test", "_test")):
        lines = _lines(_find("trec", f"{part}.txt", data_home))
        label, text = zip(*(line.split(":", 1) for line in lines), strict=True)
        if part == "test":  # "NUM:dist How far ...": the fine label would give the class away
            text = tuple(t.split(" ", 1)[1] for t in text)
        bunch[f"texts{suffix}"] = [t.strip().lower() for t in text]
        bunch[f"y{suffix}"] = _codes(label, TREC_CLASSES)
    return bunch


def fetch_mit_restaurants(data_home: str | os.PathLike | None = None) -> Bunch:
    """Questions about restaurants with a tag on every word.

    7,644 questions, and 1,521 for the test, in which each word is part of one of eight slots (amenity, cuisine, dish, hours, location, price, rating, restaurant
    name) or outside, "O". The rules that were written for these data are programs, not regular expressions, and are not included; their
    exemplars are.

    Licence: splits Apache 2.0 (Awasthi et al.); the texts, of the Spoken Language Systems Group at MIT, come without a formal licence.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        ``words`` (list of lists of str), ``tags`` (the same shape); ``words_labelled``, ``tags_labelled`` (the exemplars);
        ``words_test``, ``tags_test`` (1,521 questions); ``classes`` (the nine tags).

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If a file has the wrong checksum, or words and tags do not fit.

    References
    ----------
    Liu et al. (2013). Awasthi et al. (2020).

    Examples
    --------
    >>> from statml.datasets import fetch_mit_restaurants
    >>> fetch_mit_restaurants().words[0]  # doctest: +SKIP
    ['2', 'start', 'restaurants', 'with', 'inside', 'dining']
    """
    bunch = Bunch()
    for part, suffix in (("all", ""), ("rules_center", "_labelled"), ("test", "_test")):
        for what in ("words", "tags"):
            lines = _lines(_find("mitr", f"{part}.{what}.txt", data_home))
            bunch[what + suffix] = [line.split() for line in lines]
        lengths = [[len(s) for s in bunch[what + suffix]] for what in ("words", "tags")]
        if lengths[0] != lengths[1]:
            raise ValueError(f"words and tags of {part} differ in number")
    bunch["classes"] = sorted({tag for tags in bunch["tags"] for tag in tags})
    return bunch


def fetch_youtube_spam(data_home: str | os.PathLike | None = None) -> Bunch:
    """Comments on five music videos, spam or not, with seven keyword rules.

    1,956 comments in lower case; those on the first four videos are for training, those on the fifth for validation (the first 120, of which 13 % are spam) and test (250, 63 %).
    The rules are statml's own, in the spirit of the snorkel tutorial: mentions of "my", "subscribe", a link, "please" and "check out" vote
    for spam, a mention of a song and a comment of at most four words for ham.

    Licence: CC BY 4.0 (UCI Machine Learning Repository).

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        ``texts``, ``y`` (1,586), ``texts_valid``, ``y_valid`` (120), ``texts_test``, ``y_test`` (250), ``rules``, ``classes``.

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If a file has the wrong checksum.

    References
    ----------
    Alberto, Lochter and Almeida (2015).

    Examples
    --------
    >>> from statml.datasets import fetch_youtube_spam
    >>> fetch_youtube_spam().classes  # doctest: +SKIP
    ['ham', 'spam']
    """
    tables = [
        pd.read_csv(_find("youtube", name, data_home), keep_default_na=False, encoding="utf-8-sig")
        for name in sorted(SHA256["youtube"])
    ]
    bunch = Bunch(rules=list(YOUTUBE_RULES), classes=list(SMS_CLASSES))
    parts = {
        "": pd.concat(tables[:4]),
        "_valid": tables[4].iloc[:120],
        "_test": tables[4].iloc[120:],
    }
    for suffix, table in parts.items():
        texts = table["CONTENT"].str.replace("\ufeff", "").str.lower()
        bunch[f"texts{suffix}"] = texts.tolist()
        bunch[f"y{suffix}"] = table["CLASS"].to_numpy(np.int64)
    return bunch


def _find(folder: str, name: str, data_home: str | os.PathLike | None) -> Path:
    """A file of ``$STATML_DATA/weak_supervision``, or of the cache, or a download."""
    url, sha256 = f"{URLS[folder]}/{name}", SHA256[folder][name]
    given = os.environ.get("STATML_DATA")
    path = given and Path(given) / "weak_supervision" / folder / name
    if path and path.is_file():
        _check(path, sha256, f"Delete it, or replace it by {url}.")
        return path
    return fetch_file(f"weak_supervision_{folder}_{name}", url, sha256, _cache_folder(data_home))


def _lines(path: Path) -> list[str]:
    # split at line feeds only: the texts hold other characters at which str.splitlines would split
    lines = path.read_bytes().decode("latin-1").split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]


def _codes(labels, names: list[str]) -> NDArray[np.int64]:
    return np.array([names.index(label) for label in labels], dtype=np.int64)


def _rules(folder: str, classes: list[str], data_home, names: list[str] | None = None) -> Bunch:
    lines = _lines(_find(folder, "rule.txt", data_home))
    labels, rules, exemplars = zip(*(line.split("\t") for line in lines), strict=True)
    codes = _codes(labels, names or classes)
    return Bunch(
        rules=[(int(c), rule) for c, rule in zip(codes, rules, strict=True)],
        texts_labelled=[text.lower() for text in exemplars],
        y_labelled=codes,
        classes=list(classes),
    )


# --- simulation -------------------------------------------------------------------------------------


def make_weak_labels(
    n: int = 1000,
    n_rules: int = 10,
    coverage: ArrayLike = 0.2,
    accuracy: ArrayLike = 0.8,
    correlation: float = 0.0,
    *,
    n_classes: int = 2,
    class_prior: ArrayLike | None = None,
    kind: str = "rules",
    n_features: int = 5,
    separation: float = 3.0,
    random_state: RandomState = None,
) -> Bunch:
    r"""Simulate records, their classes, and votes of rules or annotators about them.

    Parameters
    ----------
    n : int, default=1000
    n_rules : int, default=10
        Rule j votes for class j modulo `n_classes`.
    coverage : float or array-like of shape (n_rules,), default=0.2
        Share of the records that a rule votes on.
    accuracy : float, or array-like of shape (n_rules,) or, for annotators, (n_rules, n_classes), default=0.8
        Share of the votes that are right; for annotators among the votes on records of each class, wrong votes being spread evenly.
    correlation : float in [0, 1), default=0.0
        Of the rules given the class: what decides whether a rule fires, or an annotator is right, are normal variables of which each pair has this
        correlation (a Gaussian copula), so that coverage and accuracy stay as they are.
    n_classes : int, default=2
    class_prior : array-like of shape (n_classes,), optional
        Uniform by default.
    kind : {"rules", "annotators"}, default="rules"
        Rules vote for one class each, annotators for all.
    n_features, separation : int, default=5, and float, default=3.0
        The records X are Gaussian clouds, one a class, with means of this length in random directions.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    Bunch
        ``votes`` (n, n_rules), -1 where a rule abstains; ``y`` (n,), the truth; ``X`` (n, n_features); ``rule_labels`` (n_rules,) or
        None for annotators; ``confusion`` (n_rules, n_classes, n_classes + 1), the probability of each vote given the class, of none last;
        ``class_prior``.

    Raises
    ------
    ValueError
        If no rule can have this coverage and accuracy: it would have to fire with a probability above 1.

    Examples
    --------
    >>> from statml.datasets import make_weak_labels
    >>> data = make_weak_labels(n=5000, coverage=0.3, accuracy=0.9, random_state=0)
    >>> fired = data.votes != -1
    >>> bool(abs(fired.mean() - 0.3) < 0.01), bool(abs((data.votes == data.y[:, None])[fired].mean() - 0.9) < 0.01)
    (True, True)
    """
    n = check_integer("n", n, low=1)
    m = check_integer("n_rules", n_rules, low=1)
    n_classes = check_integer("n_classes", n_classes, low=2)
    n_features = check_integer("n_features", n_features, low=1)
    separation = check_number("separation", separation, 0)
    correlation = check_number("correlation", correlation, 0, 1, high_open=True)
    check_choice("kind", kind, ("rules", "annotators"))
    if class_prior is None:
        prior = np.full(n_classes, 1 / n_classes)
    else:
        prior = np.asarray(class_prior, dtype=float)
        if prior.shape != (n_classes,) or not (prior > 0).all() or abs(prior.sum() - 1) > 1e-8:
            raise ValueError(
                f"class_prior must hold {n_classes} positive numbers that sum to 1, got {class_prior!r}"
            )
    cover = _shares("coverage", coverage, (m,))
    labels = np.arange(m) % n_classes
    if kind == "rules":
        confusion = _rule_confusion(cover, _shares("accuracy", accuracy, (m,)), labels, prior)
    else:
        right = _shares("accuracy", accuracy, (m, n_classes))
        confusion = _annotator_confusion(cover, right)

    rng = as_generator(random_state)
    y = rng.choice(n_classes, size=n, p=prior)
    shared = np.sqrt(correlation) * rng.standard_normal((n, 1))
    u = norm.cdf(shared + np.sqrt(1 - correlation) * rng.standard_normal((n, m)))
    votes = np.full((n, m), -1, dtype=np.int64)
    if kind == "rules":
        fires = u < 1 - confusion[:, :, -1].T[y]
        votes[fires] = np.broadcast_to(labels, (n, m))[fires]
    else:
        fires = rng.random((n, m)) < cover
        wrong = (y[:, None] + rng.integers(1, n_classes, size=(n, m))) % n_classes
        votes[fires] = np.where(u < right.T[y], y[:, None], wrong)[fires]
    means = rng.standard_normal((n_classes, n_features))
    means *= separation / np.linalg.norm(means, axis=1, keepdims=True)
    return Bunch(
        votes=votes,
        y=y,
        X=means[y] + rng.standard_normal((n, n_features)),
        rule_labels=labels if kind == "rules" else None,
        confusion=confusion,
        class_prior=prior,
    )


def _shares(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    share = np.asarray(value, dtype=float)
    if share.ndim == 1 and len(shape) == 2 and share.shape == shape[:1]:
        share = share[:, None]
    if share.ndim and (share.ndim != len(shape) or share.shape[0] != shape[0]):
        raise ValueError(f"{name} must be a number or have shape {shape}, got shape {share.shape}")
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return np.broadcast_to(share, shape)


def _rule_confusion(cover, right, labels, prior) -> NDArray[np.float64]:
    m, n_classes = len(cover), len(prior)
    own = prior[labels]
    fire = np.repeat((cover * (1 - right) / (1 - own))[:, None], n_classes, axis=1)
    fire[np.arange(m), labels] = cover * right / own
    if fire.max() > 1 + 1e-12:
        j = int(fire.max(axis=1).argmax())
        raise ValueError(
            f"coverage {cover[j]:g} and accuracy {right[j]:g} cannot both hold for a rule of class {labels[j]}, whose share is "
            f"{own[j]:g}: it would fire with probability {fire[j].max():.3g}"
        )
    confusion = np.zeros((m, n_classes, n_classes + 1))
    confusion[np.arange(m), :, labels] = fire
    confusion[:, :, -1] = 1 - fire
    return confusion


def _annotator_confusion(cover, right) -> NDArray[np.float64]:
    m, n_classes = right.shape
    confusion = np.zeros((m, n_classes, n_classes + 1))
    confusion[:, :, :-1] = ((1 - right) / (n_classes - 1))[:, :, None]
    confusion[:, np.arange(n_classes), np.arange(n_classes)] = right
    confusion *= cover[:, None, None]
    confusion[:, :, -1] = 1 - cover[:, None]
    return confusion
