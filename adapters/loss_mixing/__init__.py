"""Loss mixing: weights for every loss of every record, learned on a small clean validation set.

Nothing here needs torch but `AMALClassifier` and `meta_gradient`; names are loaded when they are asked for
(``__init__.pyi`` says from where).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
