"""Sphinx configuration; ``make site`` builds from here into site/ at the root of the repository."""

import importlib
import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

import matplotlib.pyplot as plt

from statml._display import PALETTE

SITE = Path(__file__).resolve().parent
VIGNETTES = SITE.parent

# Every build starts afresh, so that no page outlives its source and each figure is made by the present code.
for made in ("auto", "generated"):
    shutil.rmtree(SITE / made, ignore_errors=True)

project = "statml"
author = "The statml developers"
copyright = f"2026, {author}"
version = release = version_of("statml")

# The modules of the API reference, as its page names them.
DOCUMENTED = re.findall(r"^   (statml[\w.]*)$", (SITE / "api.rst").read_text(), flags=re.MULTILINE)


def is_at_home(module, name):
    """Whether a public name is described on this module's page: the one nearest to where it is defined."""
    homes = [
        other
        for other in DOCUMENTED
        if name in getattr(importlib.import_module(other), "__all__", [])
    ]
    defined = getattr(getattr(importlib.import_module(module), name), "__module__", module)
    near = [other for other in homes if f"{defined}.".startswith(f"{other}.")]
    # a module without __all__ describes what it defines, not what it imports
    return module == max(near or homes or [defined], key=len)


extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["auto/scripts"]

# ---- API reference: what a module's __all__ names, as its own docstrings tell it
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_context = {"is_at_home": is_at_home}
suppress_warnings = [
    "config.cache"
]  # a function in the configuration only means no cached pickle of it
numpydoc_show_class_members = False  # the class template lists the members


def skip_foreign_members(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator: its docstrings link into its own site."""
    home = getattr(getattr(obj, "fget", obj), "__module__", None) or "statml"
    return True if not home.startswith("statml") else None


def reset_colours(gallery_conf, fname):
    """Draw with the colours of the package's own plots, which come after matplotlib's own reset."""
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=PALETTE)


def setup(app):
    app.connect("autodoc-skip-member", skip_foreign_members)


# ---- Gallery: one for each family folder. A script runs in the folder where it lies, so copies are run:
# what a tutorial writes stays out of the repository.
SCRIPTS = SITE / "auto" / "scripts"
families = sorted({script.parent.name for script in VIGNETTES.glob("*/plot_*.py")})
for family in families:
    shutil.copytree(VIGNETTES / family, SCRIPTS / family)

sphinx_gallery_conf = {
    "examples_dirs": [str(SCRIPTS / family) for family in families],
    "gallery_dirs": [f"auto/{family}" for family in families],
    "filename_pattern": "plot_",
    "ignore_pattern": r"(^|/)_",
    "reference_url": {"statml": None},  # names in the code link to the API reference
    "doc_module": ("statml",),
    "backreferences_dir": "auto/backreferences",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "ignore_repr_types": r"Display|matplotlib",  # the figure is what is meant
    "reset_modules": ("matplotlib", reset_colours),
}

# ---- Appearance
html_theme = "pydata_sphinx_theme"
html_title = "statml"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["custom.js"]
# pages of one level have nothing to show at their left
html_sidebars = {
    page: [] for page in ("index", "choose", "trust", "influence", "scale_out", "performance")
}
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
