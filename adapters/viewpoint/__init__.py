"""Viewpoint control for active classification: where should the drone look next?

The scene, sensors, fusions and baselines run on numpy alone; gymnasium, torch and a solver of quadratic programs are loaded with the
names that need them (``__init__.pyi`` says from where each name comes).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
