"""Bayesian inference from differentially private releases.

`PrivatePosterior` composes a data model (`models`) and a privacy mechanism (`mechanisms`). Everything is
loaded at its first use (``__init__.pyi`` says from where).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
