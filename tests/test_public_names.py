"""The public surface as a reader of the API pages meets it: every name is there, described and typed."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = re.findall(
    r"^   (statml[\w.]*)$", (ROOT / "vignettes/site/api.rst").read_text(), flags=re.MULTILINE
)
PARTS_OF_A_CALL = ("self", "cls")


def public_names(page):
    """What a documented module offers: its __all__, else what is defined in it."""
    module = importlib.import_module(page)
    defined = (
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == page
    )
    return {name: getattr(module, name) for name in getattr(module, "__all__", defined)}


def own_functions(owner):
    """(name, function) of a function itself, or of what a class of ours has for its users, from its own bases too."""
    if inspect.isfunction(owner):
        yield "", owner
    elif inspect.isclass(owner):
        for name in dir(owner):
            if name.startswith("_") and name not in ("__init__", "__call__"):
                continue
            member = inspect.getattr_static(owner, name)
            function = getattr(member, "fget", getattr(member, "__func__", member))
            if inspect.isfunction(function) and function.__module__.startswith("statml"):
                yield f".{name}", function


@pytest.mark.parametrize("page", PAGES)
def test_public_names_are_there_and_described(page):
    for name, value in public_names(page).items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert inspect.getdoc(value), f"{page}.{name} has no docstring"
        for member, function in own_functions(value):
            if not member.startswith((".__init__", ".__call__")):
                # an override may rely on what it overrides
                described = inspect.getdoc(getattr(value, member[1:]) if member else function)
                assert described, f"{page}.{name}{member} has no docstring"


@pytest.mark.parametrize("page", PAGES)
def test_public_functions_are_typed(page):
    untyped = []
    for name, value in public_names(page).items():
        for member, function in own_functions(value):
            signature = inspect.signature(function)
            for argument in signature.parameters.values():
                if argument.annotation is argument.empty and argument.name not in PARTS_OF_A_CALL:
                    untyped.append(f"{name}{member}({argument.name})")
            if signature.return_annotation is signature.empty and member != ".__init__":
                untyped.append(f"{name}{member} -> ?")
    assert untyped == []


def test_every_package_is_on_a_page():
    """A public folder of methods that no page names would be invisible."""
    packages = {
        "statml." + path.parent.name
        for path in (ROOT / "statml").glob("*/__init__.py")
        if not path.parent.name.startswith("_")
    }
    adapters = {
        "statml.adapters." + path.parent.name for path in (ROOT / "adapters").glob("*/__init__.py")
    }
    assert packages | adapters <= set(PAGES)


# One meaning and one default for the arguments that every family has.
DEFAULTS = {"level": 0.95, "n_jobs": None, "progress": "auto", "checkpoint_dir": None}


def test_shared_arguments_have_one_default():
    others = []
    for page in PAGES:
        for name, value in public_names(page).items():
            for member, function in own_functions(value):
                for argument in inspect.signature(function).parameters.values():
                    if argument.default is argument.empty or argument.name not in DEFAULTS:
                        continue
                    if argument.default != DEFAULTS[argument.name]:
                        others.append(f"{page}.{name}{member}: {argument}")
    assert others == []


# What other packages call it, and what it is called here.
OTHER_NAMES = {
    "conf_level": "level",
    "confidence": "level",
    "confidence_level": "level",
    "n_bootstrap": "n_boot",
    "n_bootstraps": "n_boot",
    "n_iter": "max_iter",
    "tolerance": "tol",
}


def test_one_thing_has_one_name():
    others = {
        f"{page}.{name}{member}({argument}): {OTHER_NAMES[argument]}"
        for page in PAGES
        for name, value in public_names(page).items()
        for member, function in own_functions(value)
        for argument in inspect.signature(function).parameters
        if argument in OTHER_NAMES
    }
    assert others == set()


def test_results_are_printed_and_tabulated_alike():
    """LabelMatrix holds votes, no results: its summary is the table of its rules."""
    forms = {"summary": "Summary", "tidy": "pd.DataFrame", "glance": "pd.DataFrame"}
    others = {
        f"{page}.{name}.{method}"
        for page in PAGES
        for name, value in public_names(page).items()
        for method, form in forms.items()
        if inspect.isclass(value) and hasattr(value, method) and name != "LabelMatrix"
        if inspect.signature(getattr(value, method)).return_annotation != form
    }
    assert others == set()
