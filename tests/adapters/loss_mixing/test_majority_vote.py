"""The majority is counted, ties and silence give no label."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from statml.adapters.loss_mixing.majority_vote import MajorityVote

VOTES = arrays(
    np.int64, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.integers(-1, 2)
)


@given(VOTES)
def test_the_majority_is_that_of_brute_force(votes):
    if (votes == -1).all():
        return
    model = MajorityVote(classes=[0, 1, 2]).fit(votes)
    for row, label, probs in zip(
        votes.tolist(), model.predict(votes), model.predict_proba(votes), strict=True
    ):
        count = [row.count(c) for c in range(3)]
        if not sum(count):
            assert np.isnan(probs).all()
            assert label == -1
        else:
            np.testing.assert_allclose(probs, np.array(count) / sum(count))
            winners = [c for c in range(3) if count[c] == max(count)]
            assert label == (winners[0] if len(winners) == 1 else -1)


def test_the_soft_target_masks_silence_and_ties_and_is_never_uniform():
    votes = [[0, 0, 1], [0, 1, -1], [-1, -1, -1]]
    target = MajorityVote().fit(votes).soft_target(votes)
    assert target.mask.tolist() == [True, False, False]
    block = target.bind(3, np.arange(2))
    np.testing.assert_allclose(block.targets[:, 0], [[2 / 3, 1 / 3], [0, 0], [0, 0]])


def test_bad_votes_are_refused_by_name():
    with pytest.raises(ValueError, match="at least one vote"):
        MajorityVote(classes=[0, 1]).fit([[-1, -1]])
    with pytest.raises(ValueError, match="at least two classes"):
        MajorityVote().fit([[1, -1]])
    model = MajorityVote().fit([[0, 1], [1, 1]])
    with pytest.raises(ValueError, match="the 2 columns of the fit, got 1"):
        model.predict([[0]])
    with pytest.raises(ValueError, match="votes hold 2"):
        model.predict([[2, 0]])
