"""Networks whose worst group does well, and the discovery of groups that do badly.

The counterpart of `statml.group_robust`, whose metrics, slices and exact solver it uses.
"""

from .agro import AGRONet
from .features import NetFeatures
from .group_dro import GroupDRONet
from .jtt import JTTNet
from .lff import LfFNet

__all__ = ["AGRONet", "GroupDRONet", "JTTNet", "LfFNet", "NetFeatures"]
