from .auxiliary import (
    DistillationLoss as DistillationLoss,
    Entropy as Entropy,
    PerExample as PerExample,
    RuleVotes as RuleVotes,
    SoftTarget as SoftTarget,
    Teacher as Teacher,
)
from .cage import (
    CAGE as CAGE,
)
from .dawid_skene import (
    DawidSkene as DawidSkene,
)
from .displays import (
    AlignmentDisplay as AlignmentDisplay,
    LambdaHistogramDisplay as LambdaHistogramDisplay,
    LambdaPathDisplay as LambdaPathDisplay,
)
from .estimator import (
    AMALClassifier as AMALClassifier,
)
from .head import (
    head_meta_gradient as head_meta_gradient,
)
from .majority_vote import (
    MajorityVote as MajorityVote,
)
from .one_step import (
    meta_gradient as meta_gradient,
)
from .rule_set import (
    LabelMatrix as LabelMatrix,
    RuleSet as RuleSet,
)
