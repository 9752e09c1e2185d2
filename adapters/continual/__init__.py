"""Wholistic continual learning: bounds on what was seen, exemplars, queries, the order of tasks, and how to judge it all.

Only `OpenVAEClassifier` and its parts need torch; names are loaded when they are asked for (``__init__.pyi`` says from where).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
