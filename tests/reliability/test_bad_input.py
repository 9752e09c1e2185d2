"""Whatever comes in: a clear error, or a right answer. Never a silent NaN, an error from the depths, or no end."""

import inspect
import re
import signal
import warnings
from contextlib import contextmanager
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ._corruptions import EQUIVALENT, FEATURES, OPTIONAL, REFUSED, SETTLED, together
from ._public import public_objects
from ._recipes import FUNCTIONS, RECIPES

KINDS = {"refused": REFUSED, "settled": SETTLED, "equivalent": EQUIVALENT, "optional": OPTIONAL}
BY_NAME = {recipe.name: recipe for recipe in (*RECIPES, *FUNCTIONS)}


def cases(name):
    """Every corruption that an estimator's arguments can have, by kind and name."""
    own = {"refused": {**REFUSED, **BY_NAME[name].own}}
    rng = np.random.default_rng(0)
    return {
        (kind, what): corrupt
        for kind, by_name in (KINDS | own).items()
        for what, corrupt in by_name.items()
        if what not in BY_NAME[name].leave_out and corrupt(BY_NAME[name].make(), rng) is not None
    }


SECONDS = 60  # after which a call counts as hanging

# What an error speaks of: the trouble, if it does not name the argument.
TROUBLE = re.compile(
    r"nan|infinit|finite|too large|class|shape|sample|feature|dimension|length|long|empty|dtype|string|number|numeric"
    r"|integer|complex|sparse|label|record|column|row|negative|positive|zero|constant|square|node|edge|vote|value|weight|singular|diverged|overflow|layer",
    re.IGNORECASE,
)
DEPTHS = re.compile(
    r"broadcast|matmul|einsum|mat1 and mat2|unpack|subscript|object has no attribute|unsupported operand|not callable"
)


@contextmanager
def limit(seconds):
    def stop(*_):
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(recipe, arguments):
    """The result and what it warns of, or the error of a refusal; anything else is raised."""
    with warnings.catch_warnings(record=True) as told, limit(SECONDS):
        warnings.simplefilter("always")
        warnings.simplefilter("error", RuntimeWarning)  # numpy's: a wrong number on its way
        try:
            found = recipe.run(**arguments)
            return found, " ".join(str(one.message) for one in told)
        except (ValueError, TypeError) as error:
            if isinstance(error, np.linalg.LinAlgError):
                raise
            message = str(error)
            named = any(re.search(rf"\b{re.escape(name)}\b", message) for name in arguments)
            assert named or TROUBLE.search(message), f"says nothing of the trouble: {message}"
            assert not DEPTHS.search(message.partition(": ")[0]), (
                f"comes from the depths: {message}"
            )
            return error, ""


@cache
def clean(name):
    return call(BY_NAME[name], BY_NAME[name].make())


def check(name, kind, corrupt, place):
    """Do the damage and judge what comes of it."""
    recipe = BY_NAME[name]
    arguments = corrupt(recipe.make(), np.random.default_rng(place))
    found, told = call(recipe, arguments)
    if isinstance(found, Exception):
        assert kind != "equivalent", f"refused: {found}"
        return
    assert kind != "refused", "taken"
    for key, values in found.items():
        values = np.asarray(values)
        if values.dtype.kind == "f" and not re.search(r"NaN|no finite|no data", told):
            assert np.isfinite(values).all(), f"{key} is not finite: {values.ravel()[:5]}"
        if kind in ("equivalent", "optional"):
            expected = np.asarray(clean(name)[0][key])
            if values.dtype.kind in "iufb":
                scale = max(1.0, np.abs(expected).max())
                np.testing.assert_allclose(
                    values, expected, rtol=0, atol=recipe.rtol * scale, err_msg=key
                )
            else:
                assert (values == expected).all(), key


@pytest.mark.parametrize("name", BY_NAME)
def test_damaged_data_is_refused_by_name_or_answered_rightly(name):
    for (kind, what), corrupt in cases(name).items():
        try:
            check(name, kind, corrupt, place=0)
        except BaseException as error:
            error.add_note(f"{what} ({kind})")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_so_whatever_the_place_of_the_damage(name):
    found = cases(name)

    @settings(max_examples=max(settings().max_examples, 200), report_multiple_bugs=False)
    @given(case=st.sampled_from(list(found)), place=st.integers(0, 2**16))
    def damage(case, place):
        check(name, case[0], found[case], place)

    damage()


NONSENSE = ("surely not", object(), float("nan"))
FREE = ("checkpoint_dir", "device", "formula", "n_jobs")  # which others read and refuse


def refusal(run, arguments) -> str | None:
    """What the error says, if there is one."""
    with warnings.catch_warnings(), limit(SECONDS):
        warnings.simplefilter("ignore")
        try:
            run(**arguments)
        except (ValueError, TypeError) as error:
            return str(error)
    return None


def with_parameter(make, parameter, value):
    return lambda: make().set_params(**{parameter: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", [r.name for r in RECIPES if getattr(r.run, "args", ())])
def test_nonsense_for_a_parameter_is_refused_and_the_error_says_what_it_was(name):
    recipe = BY_NAME[name]
    make, *others = recipe.run.args
    for parameter, value in product(sorted(make().get_params(deep=False)), NONSENSE):
        if parameter in FREE:
            continue
        changed = with_parameter(make, parameter, value)
        run = partial(recipe.run.func, changed, *others, **recipe.run.keywords)
        said = refusal(run, recipe.make())
        names = (parameter.rpartition("__")[2], str(value)[:6], type(value).__name__)
        assert said is None or any(named in said for named in names), f"{parameter}: {said}"


def test_polars_frames_are_the_same_data():
    import polars

    def frame(values):
        if np.ndim(values) != 2:
            return None
        names = [f"x{j}" for j in range(np.shape(values)[1])]
        return polars.DataFrame(np.asarray(values), schema=names)

    to_frames = together((*FEATURES, "votes"), frame)
    for name, recipe in BY_NAME.items():
        if to_frames(recipe.make(), None) is not None:
            check(name, "equivalent", to_frames, 0)


BASES = {"BaseInfluence", "Bound"}  # of which one makes one's own


def test_every_public_estimator_is_in_the_table():
    found = {
        thing
        for thing in public_objects().values()
        if inspect.isclass(thing) and hasattr(thing, "fit") and thing.__name__ not in BASES
    }
    assert found == {public_objects()[recipe.name] for recipe in RECIPES}
    for recipe in FUNCTIONS:
        assert {recipe.name, recipe.name.rpartition(".")[0]} & public_objects().keys()
