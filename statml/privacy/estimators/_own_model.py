"""What the estimators share: a posterior that makes its model from the release."""

from __future__ import annotations

from sklearn.utils.validation import check_is_fitted

from ..posterior import PrivatePosterior
from ..protocols import RecordModel


class OwnModel(PrivatePosterior):
    """A posterior that makes its model from a release."""

    # what the estimators do not ask for
    block_size = 1
    n_prior = n_mechanism = None
    init = "prior"
    store_records = allow_improper = False

    @property
    def model(self) -> RecordModel:
        """The data model; built by `fit`."""
        check_is_fitted(self, "_model")
        return self._model
