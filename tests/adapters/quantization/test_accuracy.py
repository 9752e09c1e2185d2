"""Accuracy at two and four bits on Fashion-MNIST, with the ResNet-8 that ships (91.74 % in floats)."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.networks import as_input, resnet8

from statml.datasets import fetch_fashion_mnist

SEEDS = (10, 11)  # benchmarks/quantization.py has 0 to 3

# Bounds are what the benchmark measured (mean over four seeds, three with synthetic images; the same 10,000 test
# images) less the Monte-Carlo error. The learnt rows vary alike: pooled standard deviation 0.30 over six rows, 16 degrees of
# freedom. A mean of n new seeds and one of m old ones differ by less than 3.69 * 0.30 * sqrt(1/n + 1/m) points downwards with
# probability 99.9 % (Student's t): 0.96 points for two seeds, 1.28 for one of synthetic images against three.
# Rounding to nearest at min-max and learning on noise vary more: 54.4 with sd 3.9 (twelve seeds, 100 to 111), 66.9 with sd 3.1 (four).
# At four bits one seed gave 91.33; its deviation is not known, and taken to be no more than that at two bits.
#
# Bounds that were drawn up for another ResNet-8, of 90.25 % in floats, are no test here. By the same reckoning a mean of four new
# seeds breaks "noise at most 70" one time in eight, "GENIE at least QDrop - 0.5" (+0.16 with sd 0.35 between four seeds) one in
# twenty-six, "min-max at most 60" one in seventy; "AdaRound before BRECQ" is a tie; the others, 87.8 and 86.8, are too low to notice
# anything. Here are statements that the seeds bear out.
LEARNT = {"genie": 89.8 - 0.96, "qdrop": 89.6 - 0.96}
ZERO_SHOT = 89.3 - 1.28


@pytest.fixture(scope="module")
def clothes():
    try:
        train, (images, labels) = fetch_fashion_mnist("train")[0], fetch_fashion_mnist("test")
    except OSError as error:
        pytest.skip(str(error))
    return resnet8("fashion-mnist").eval(), train, as_input(images, "fashion-mnist").numpy(), labels


def fit(clothes, seed, method="genie", bits=2, **changes):
    """256 real images, or others made without data."""
    network, train, _, _ = clothes
    quantizer = GenieQuantizer(bits, bits, method=method, random_state=seed, progress=False, **changes)  # fmt: skip
    if "data" in changes:
        return quantizer.fit(network, input_shape=(1, 28, 28))
    chosen = np.random.default_rng(seed).choice(len(train), 256, replace=False)
    return quantizer.fit(network, as_input(train[chosen], "fashion-mnist").numpy())


def accuracy(clothes, quantizer):
    _, _, X, y = clothes
    return 100 * np.mean(quantizer.predict(X) == y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", LEARNT)
def test_learnt_roundings_at_two_bits_keep_most_of_the_accuracy(clothes, method):
    fits = [fit(clothes, seed, method) for seed in SEEDS]
    assert np.mean([accuracy(clothes, q) for q in fits]) > LEARNT[method]
    if method == "genie":  # 3.3 % in the benchmark; with the weak rounding term of QDrop 16 %
        assert max(q.undecided_ for q in fits) < 0.05


@pytest.mark.slow
def test_rounding_to_nearest_on_the_whole_range_destroys_it(clothes):
    found = [accuracy(clothes, fit(clothes, seed, "rtn-minmax")) for seed in range(10, 18)]
    # the mean of eight new seeds and of twelve old ones: t of 11 degrees of freedom, 99.9 %
    assert np.mean(found) < 54.4 + 4.02 * 3.9 * np.sqrt(1 / 8 + 1 / 12)


@pytest.mark.slow
def test_images_from_statistics_stand_in_for_real_ones_and_noise_does_not(clothes):
    made = fit(clothes, SEEDS[0], data="genie")
    assert accuracy(clothes, made) > ZERO_SHOT
    noise = np.mean([accuracy(clothes, fit(clothes, seed, data="noise")) for seed in SEEDS])
    # as above: 66.9 + 10.2 * 3.1 * sqrt(1/2 + 1/4) would be 94, no bound; the statement is that of the benchmark's difference,
    # +22 with an interval of 12 to 32, at half its lower end
    assert accuracy(clothes, made) - noise > 6


@pytest.mark.slow
def test_four_bits_cost_next_to_nothing(clothes):
    found = accuracy(clothes, fit(clothes, SEEDS[0], bits=4))
    assert found > 91.33 - 3.69 * 0.30 * np.sqrt(2)  # one seed against one: 89.8


@pytest.mark.slow
def test_a_learning_rate_that_is_too_small_for_the_iterations_is_warned_of(clothes):
    with pytest.warns(ConvergenceWarning, match="undecided at the end"):
        quantizer = fit(clothes, SEEDS[0], lr_round=1e-3, n_samples=64)
    assert quantizer.undecided_ > 0.5  # nearly all: none moves by more than 0.4, and 2.4 are needed
