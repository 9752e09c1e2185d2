"""AMAL on real labelling rules, five seeds with paired intervals, and label models beside snorkel's and crowd-kit's.

    python benchmarks/loss_mixing_rules.py                # all, about ten minutes of one core
    python benchmarks/loss_mixing_rules.py sms 100        # one setting: data and size of the validation set V
    python benchmarks/loss_mixing_rules.py label-models   # the label models and their peers

Features: TF-IDF, SVD to 150, scaled by one number, all from training texts. Network: one hidden layer of 64. L are the 73 or 68
sentences that the rules were written for (none for YouTube), V a random part of the validation texts, U the texts on which a rule
votes; the auxiliary loss is the cross-entropy with the majority vote. Every row is trained alike: Adam, weight decay 1e-3, 40 epochs of L and U;
rows that see L and V only get as many steps, in more epochs. The fixed mixture is the best of five on the same V; `meta="full"` was picked in
pilot runs whose test scores were seen.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import t
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, roc_auc_score
from statml.adapters import CAGE, AMALClassifier, DawidSkene, MajorityVote, RuleSet, SoftTarget

from statml.datasets import (
    fetch_sms_spam,
    fetch_trec_questions,
    fetch_youtube_spam,
    make_weak_labels,
)

DATA = {"sms": fetch_sms_spam, "trec": fetch_trec_questions, "youtube": fetch_youtube_spam}
SETTINGS = [("sms", 100), ("sms", 500), ("trec", 100), ("trec", 500), ("youtube", 100)]
SEEDS = range(5)
SHARES = (0.3, 0.5, 0.7, 0.9, 1.0)  # of the rules in a fixed mixture
COMMON = {"module__hidden": (64,), "weight_decay": 1e-3, "meta": "full", "progress": False}
PLAIN = {"lambda_lr": 0.0, "lambda_init": 1.0}
PAIRS = [
    ("AMAL", "fixed mixture"),
    ("AMAL + V", "fixed mixture + V"),
    ("AMAL + V", "supervised L + V"),
]


def setting(name: str, n_valid: int) -> dict[str, list[float]]:
    """Scores of every row for every seed: F1 of spam for SMS, else accuracy."""
    data = DATA[name]()
    labelled = data.get("texts_labelled", [])
    y_labelled = data.get("y_labelled", np.zeros(0, dtype=int))
    train = labelled + data.texts
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=r"(?u)\b\w+\b")
    svd = TruncatedSVD(150, random_state=0).fit(tfidf.fit_transform(train))
    scale = svd.transform(tfidf.transform(train)).std()

    def features(texts):
        return (svd.transform(tfidf.transform(texts)) / scale).astype(np.float32)

    votes = RuleSet(data.rules, classes=range(len(data.classes))).apply(data.texts)
    target = MajorityVote().fit(votes).soft_target(votes)
    label = np.nan_to_num(target.probs).argmax(axis=1)
    used = np.r_[np.ones(len(labelled), dtype=bool), target.mask]
    X_all = features(train)
    X, X_valid, X_test = X_all[used], features(data.texts_valid), features(data.texts_test)
    y = np.r_[y_labelled, np.full(target.mask.sum(), -1)]
    probs = np.eye(len(data.classes))[np.r_[y_labelled, label[target.mask]]]
    aux = [SoftTarget(probs, y == -1, name="rules")]

    def score(truth, predicted):
        return f1_score(truth, predicted) if name == "sms" else float((truth == predicted).mean())

    rows: dict[str, list[float]] = {}
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).permutation(len(X_valid))[:n_valid]
        X_val, y_val = X_valid[chosen], data.y_valid[chosen]

        def fit(aux, X=X, y=y, *, seed=seed, X_val=X_val, y_val=y_val, **parameters):
            model = AMALClassifier(**(COMMON | {"random_state": seed} | parameters))
            return model.fit(X, y, aux, X_val=X_val, y_val=y_val)

        def keep(row, model):
            rows.setdefault(row, []).append(score(data.y_test, model.predict(X_test)))

        if labelled:
            keep("only L", fit(None, **PLAIN, epochs=as_many_steps(X, len(labelled))))
        X_few, y_few = np.r_[X[y != -1], X_val], np.r_[y_labelled, y_val]
        epochs = as_many_steps(X, len(X_few))
        keep("supervised L + V", fit(None, X_few, y_few, **PLAIN, epochs=epochs))
        mixtures = {
            s: fit(aux, lambda_lr=0.0, lambda_init=[1 - s, s])
            for s in (SHARES if labelled else (1.0,))
        }
        share = max(mixtures, key=lambda s: score(y_val, mixtures[s].predict(X_val)))
        keep("fixed mixture", mixtures[share])
        mixture = {"lambda_lr": 0.0, "lambda_init": [1 - share, share]}
        keep("fixed mixture + V", fit(aux, **mixture, refit_with_validation=True))
        amal = fit(aux)
        keep("AMAL", amal)
        keep("AMAL + V", fit(aux, refit_with_validation=True))
        gold = np.r_[y_labelled, data.y]
        keep("all labels (gold)", fit(None, X_all, gold, **PLAIN))
        right = label[target.mask] == data.y[target.mask]
        weights = amal.lambda_[y == -1, 1]
        rows.setdefault("(AUC of lambda for a right vote)", []).append(
            roc_auc_score(right, weights)
        )
        print(name, n_valid, seed, {k: round(v[-1], 3) for k, v in rows.items()}, flush=True)
    return rows


def as_many_steps(X: np.ndarray, n: int, epochs: int = 40, batch_size: int = 128) -> int:
    """Epochs of n records with as many steps of training as `epochs` of X."""
    return round(epochs * np.ceil(len(X) / batch_size) / np.ceil(n / batch_size))


def report(name: str, n_valid: int, rows: dict[str, list[float]]) -> None:
    """The table of a setting, and paired differences with 95 % intervals over seeds."""
    print(f"\n{name}, |V| = {n_valid}: mean of {len(SEEDS)} seeds")
    for row, scores in rows.items():
        print(f"  {row:34s} {np.mean(scores):.3f}   {' '.join(f'{s:.3f}' for s in scores)}")
    for one, other in PAIRS:
        gap = np.subtract(rows[one], rows[other])
        half = t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
        print(
            f"  {one} - {other}: {gap.mean():+.3f} [{gap.mean() - half:+.3f}, {gap.mean() + half:+.3f}]"
        )


# --- label models beside their peers ----------------------------------------------------------------


def label_models() -> None:
    """Accuracy on records with a vote, and seconds of one core, in one run."""
    from _label_model_peers import crowdkit_dawid_skene, snorkel_label_model

    print("\nlabel models: share right among records with a vote; CPU seconds")
    cases = {}
    for name, fetch in DATA.items():
        data = fetch()
        matrix = RuleSet(data.rules, classes=range(len(data.classes))).apply(data.texts)
        cases[name] = (matrix.toarray(), data.y, len(data.classes), "rules")
    accuracy = np.tile([0.95, 0.95, 0.7, 0.7, 0.6], 4)
    sim = make_weak_labels(20_000, 20, 0.2, accuracy, random_state=0)
    cases["simulated rules"] = (sim.votes, sim.y, 2, "rules")
    sim = make_weak_labels(
        20_000,
        20,
        0.2,
        np.tile([0.9, 0.7, 0.5, 0.4], 5),
        n_classes=4,
        kind="annotators",
        random_state=0,
    )
    cases["simulated annotators"] = (sim.votes, sim.y, 4, "annotators")
    for name, (votes, y, n_classes, kind) in cases.items():
        covered = (votes != -1).any(axis=1)
        classes = range(n_classes)
        ours = {"MajorityVote": MajorityVote(classes)}
        if kind == "rules":
            ours["CAGE"] = CAGE(classes=classes)
            ours['DawidSkene("informative")'] = DawidSkene("informative", classes=classes)
        else:
            ours["DawidSkene"] = DawidSkene(classes=classes, smoothing=0.0)
        results = {}
        for label, model in ours.items():
            start = time.process_time()
            predicted = model.fit(votes).predict(votes)
            results[label] = predicted, time.process_time() - start
        results["snorkel LabelModel"] = snorkel_label_model(votes, n_classes)
        if kind == "annotators":
            results["crowd-kit DawidSkene"] = crowdkit_dawid_skene(votes)
        print(f"  {name}")
        for label, (predicted, seconds) in results.items():
            print(f"    {label:28s} {(predicted == y)[covered].mean():.4f}   {seconds:.2f} s")
        if kind == "annotators":
            agree = (results["DawidSkene"][0] == results["crowd-kit DawidSkene"][0])[covered]
            print(
                f"    DawidSkene and crowd-kit give {agree.mean():.4f} of the records the same label"
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    if sys.argv[1:] == ["label-models"]:
        label_models()
    else:
        asked = [(sys.argv[1], int(sys.argv[2]))] if len(sys.argv) == 3 else SETTINGS
        for name, n_valid in asked:
            report(name, n_valid, setting(name, n_valid))
        if len(sys.argv) == 1:
            label_models()
