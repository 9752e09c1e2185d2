"""What a fitted mixture says about itself: diagnostics, summary, and the comparison that keeps it honest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary

from statml._validation import as_seed_sequence, check_choice, check_integer, check_level
from statml.inference.bootstrap import percentile_interval
from statml.inference.summaries import facts_table, frame_table, summary_of

from .auxiliary import Teacher

METRICS: dict[str, Callable[[NDArray, NDArray], float]] = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "f1_macro": lambda y, p: f1_score(y, p, average="macro", zero_division=0),
}
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the auxiliary losses in a fixed mixture
DROPOUT = 0.25  # of densely guided distillation


class MixingReport:
    """Diagnostics of `AMALClassifier`."""

    def diagnostics(self) -> pd.DataFrame:
        """How the weights of each loss came out.

        Returns
        -------
        DataFrame
            One row a loss: ``records`` that have it, ``mean_weight``, ``n_effective``, the shares ``at_lower`` and ``at_upper`` bound, and
            ``pulls_along``, the share of records whose gradient agreed with the validation data at the last step.
        """
        check_is_fitted(self, "lambda_")
        mask = self.loss_mask_
        counts = np.maximum(mask.sum(axis=0), 1)
        agreed = np.where(mask & np.isfinite(self.alignment_), self.alignment_ > 0, False)
        along = agreed.sum(axis=0) / counts if np.isfinite(self.alignment_).any() else np.nan
        return pd.DataFrame(
            {
                "records": mask.sum(axis=0),
                "mean_weight": np.where(mask, np.nan_to_num(self.lambda_), 0).sum(axis=0) / counts,
                "n_effective": self.n_effective_,
                "at_lower": self.share_at_bounds_[0],
                "at_upper": self.share_at_bounds_[1],
                "pulls_along": along,
            },
            index=pd.Index(self.loss_names_, name="loss"),
        )

    def lambda_auc(self, clean: ArrayLike, loss: str | int = 0) -> float:
        """Area under the ROC curve of a loss's weights, for a flag that says where it is right.

        Parameters
        ----------
        clean : array-like of bool of shape (n_records,)
        loss : str or int, default=0
            Name or position of the loss.

        Returns
        -------
        float
            0.5: the weights do not tell right from wrong.
        """
        check_is_fitted(self, "lambda_")
        k = self._column(loss)
        clean = np.asarray(clean)
        if clean.dtype != bool or clean.shape != (len(self.lambda_),):
            raise ValueError(
                f"clean must hold True or False for each of the {len(self.lambda_)} records, got {clean.dtype} of shape {clean.shape}"
            )
        rows = self.loss_mask_[:, k]
        if len(np.unique(clean[rows])) < 2:
            raise ValueError(
                f"clean must hold both True and False among the records with loss {self.loss_names_[k]!r}"
            )
        return float(roc_auc_score(clean[rows], self.lambda_[rows, k]))

    def validation_gap(self, X: ArrayLike, y: ArrayLike) -> float:
        """Mean cross-entropy on fresh data less that on the validation data: how far the weights fit the validation data alone.

        Parameters
        ----------
        X, y : array-like of shape (n_records, ...) and (n_records,)
            In neither training nor validation.

        Returns
        -------
        float
            NaN if the classifier was trained on the validation data.
        """
        check_is_fitted(self, "lambda_")
        y = np.asarray(y)
        if not np.isin(y, self.classes_).all():
            raise ValueError("y holds classes that were not seen in training")
        return self._mean_loss(X, np.searchsorted(self.classes_, y)) - self.val_loss_

    def summary(self) -> Summary:
        """The fit in numbers, loss by loss, and the comparison if `compare` has made one.

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``.
        """
        check_is_fitted(self, "lambda_")
        losses = self.val_loss_path_
        facts = {
            "records": int(np.isfinite(self.lambda_[:, 0]).sum()),
            "losses": len(self.loss_names_),
            "epochs": self.n_iter_,
            "steps of the weights": len(losses),
            "first validation loss": losses[0] if len(losses) else np.nan,
            "validation loss": self.val_loss_,
        }
        tables = [frame_table(self.diagnostics())]
        if hasattr(self, "comparison_"):
            tables.append(frame_table(self.comparison_, "Comparison on the test data"))
        width = len(str(tables[0]).partition("\n")[0])
        notes = [
            "Weights of a loss at its bounds no longer tell records apart.",
            "The validation data have chosen the weights: their loss is too good.",
        ]
        if np.isnan(self.val_loss_):
            notes[1] = "The last training was on the validation data too."
        title = "Adaptive mixing of auxiliary losses"
        return summary_of(facts_table(title, facts, width), *tables, notes=notes)

    def compare(
        self,
        X: ArrayLike,
        y: ArrayLike,
        aux: Sequence[Any] | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        *,
        X_test: ArrayLike,
        y_test: ArrayLike,
        metric: str | Callable[[NDArray, NDArray], float] = "accuracy",
        level: float = 0.95,
        n_boot: int = 500,
    ) -> pd.DataFrame:
        """Train what one would try otherwise, on the same data from the same seed, and look at test data.

        The rows: the cross-entropy alone; the fixed mixture whose share of auxiliary losses is best on the validation data, with and
        without dropping teachers if there are two; AMAL; AMAL trained again with the validation labels; and plain training on
        labels and validation labels together, which a user who has the latter would try first. Where many records have no label, the
        plain trainings get more epochs, so that they take as many steps as AMAL.

        Parameters
        ----------
        X, y, aux, X_val, y_val
            As in `fit`.
        X_test, y_test : array-like
            In neither training nor validation.
        metric : {"accuracy", "balanced_accuracy", "f1_macro"} or callable, default="accuracy"
            A callable takes the true and the predicted labels.
        level : float, default=0.95
            Of the intervals.
        n_boot : int, default=500
            Resamples of the test records.

        Returns
        -------
        DataFrame
            ``score`` with interval, and ``difference`` to the row of AMAL with the interval of pairs; ``share`` is that of a fixed mixture,
            ``epochs`` those of the last training. Kept as ``comparison_``, which `summary` prints.

        Notes
        -----
        The intervals resample test records. That another seed or another training set gives another result they do not say: repeat
        over seeds where it matters.
        """
        level = check_level(level)
        function = metric if callable(metric) else METRICS[check_choice("metric", metric, METRICS)]
        seed = int(as_seed_sequence(self.random_state).generate_state(1)[0])
        data = {"X_val": X_val, "y_val": y_val}

        def trained(aux: Any, **parameters: Any) -> Any:
            model = clone(self).set_params(random_state=seed, checkpoint_dir=None, **parameters)
            return model.fit(X, y, aux, **data)

        plain = {"lambda_lr": 0.0, "lambda_init": 1.0, "lambda_groups": None, "simplex": False}
        rows: dict[str, tuple[Any, float]] = {}
        amal = trained(aux, refit_with_validation=False)
        n_labels = int(amal.loss_mask_[:, 0].sum())
        n_records = int(np.isfinite(amal.lambda_[:, 0]).sum())

        def plainly(n: int, **parameters: Any) -> Any:
            """The cross-entropy of n records, with as many steps as AMAL."""
            epochs = self._as_many_steps(n_records, n)
            return trained(None, **plain, epochs=epochs, **parameters)

        if n_labels:
            rows["cross-entropy"] = plainly(n_labels, refit_with_validation=False), np.nan
        if aux:
            best, share = self._best_mixture(trained, X, y, aux, data, function, plain)
            rows["fixed mixture"] = best, share
            if sum(isinstance(source, Teacher) for source in aux) > 1:
                mix = {"lambda_init": best.lambda_init, "teacher_dropout": DROPOUT}
                rows["fixed mixture, teachers dropped"] = (
                    trained(aux, **(plain | mix), refit_with_validation=False),
                    share,
                )
        rows["AMAL"] = amal, np.nan
        if not isinstance(self.validation, int) or X_val is not None:
            rows["AMAL + V"] = trained(aux, refit_with_validation=True), np.nan
            known = self._validation_of(amal, X, y, data)
            if n_labels:
                both = plainly(n_labels + len(known[1]), refit_with_validation=True)
            else:  # V is all there is
                epochs = self._as_many_steps(n_records, len(known[1]))
                both = clone(self).set_params(random_state=seed, checkpoint_dir=None, epochs=epochs)
                both.set_params(**plain, refit_with_validation=False).fit(*known, None, *known)
            rows["supervised, L + V"] = both, np.nan
        predictions = {name: model.predict(X_test) for name, (model, _) in rows.items()}
        self.comparison_: pd.DataFrame = _compared(
            predictions, np.asarray(y_test), function, level, n_boot, seed
        )
        self.comparison_.insert(0, "share", [share for _, share in rows.values()])
        self.comparison_.insert(1, "epochs", [model.n_iter_ for model, _ in rows.values()])
        return self.comparison_

    def _best_mixture(self, trained, X, y, aux, data, function, plain) -> tuple[Any, float]:
        """The fixed mixture whose score on the validation data is best, and its share of auxiliary losses."""
        n_losses, best = None, (-np.inf, None, np.nan)
        start = np.asarray(self.lambda_init, dtype=float)
        for share in SHARES:
            if n_losses is None:
                n_losses = self._count_losses(X, y, aux, data)
            total = 1.0 if self.simplex else float(np.nanmean(start)) * n_losses
            mix = np.append(1 - share, np.full(n_losses - 1, share / (n_losses - 1))) * total
            model = trained(aux, **(plain | {"lambda_init": mix}), refit_with_validation=False)
            X_val, y_val = self._validation_of(model, X, y, data)
            score = function(y_val, model.predict(X_val))
            if score > best[0]:
                best = (score, model, share)
        return best[1:]

    def _as_many_steps(self, n_records: int, n: int) -> int:
        """Epochs of n records with as many steps as `epochs` of n_records, as nearly as whole epochs allow."""
        batches = np.ceil([n_records / self.batch_size, n / self.batch_size])
        return max(round(self.epochs * batches[0] / batches[1]), min(self.epochs, 1))

    def _count_losses(self, X, y, aux, data) -> int:
        model = clone(self).set_params(
            epochs=0, lambda_lr=0.0, lambda_init=1.0, checkpoint_dir=None
        )
        return len(model.fit(X, y, aux, **data).loss_names_)

    def _validation_of(self, model, X, y, data) -> tuple[Any, NDArray]:
        if data["X_val"] is not None:
            return data["X_val"], np.asarray(data["y_val"])
        if isinstance(self.validation, (tuple, list)):
            return self.validation[0], np.asarray(self.validation[1])
        rows = model.validation_indices_
        if not len(rows):  # folds: all labels have been trained on, and are all there is
            rows = np.flatnonzero(np.asarray(y) != -1)
        return _safe_indexing(X, rows), np.asarray(y)[rows]

    def _column(self, loss: str | int) -> int:
        if isinstance(loss, str):
            return self.loss_names_.index(check_choice("loss", loss, self.loss_names_))
        return check_integer("loss", loss, 0, len(self.loss_names_) - 1)


def _compared(
    predictions: dict[str, NDArray], y: NDArray, function: Callable, level: float, n: int, seed: int
) -> pd.DataFrame:
    """Scores and paired differences to AMAL, with percentile intervals over resampled test records."""
    rng = np.random.default_rng(seed)
    draws = {name: np.empty(n) for name in predictions}
    for b in range(n):
        rows = rng.integers(len(y), size=len(y))
        for name, p in predictions.items():
            draws[name][b] = function(y[rows], p[rows])
    score = {name: function(y, p) for name, p in predictions.items()}
    table = []
    for name in predictions:
        low, high = percentile_interval(draws[name], level)
        gap = (
            percentile_interval(draws[name] - draws["AMAL"], level)
            if name != "AMAL"
            else (np.nan, np.nan)
        )
        table.append([score[name], low, high, score[name] - score["AMAL"], *gap])
    columns = ["score", "conf_low", "conf_high", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(table, columns=columns, index=pd.Index(predictions, name="training"))
