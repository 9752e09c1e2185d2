from .bound import (
    Bound as Bound,
)
from .combining import (
    calibrated_combination as calibrated_combination,
    combine_p_values as combine_p_values,
)
from .compass import (
    CompassDisplay as CompassDisplay,
    cleva_entry as cleva_entry,
    write_cleva as write_cleva,
)
from .conformal import (
    ConformalBound as ConformalBound,
    conformal_p_values as conformal_p_values,
)
from .displays import (
    AccuracyMatrixDisplay as AccuracyMatrixDisplay,
    LearningCurvesDisplay as LearningCurvesDisplay,
    OpenSetDisplay as OpenSetDisplay,
)
from .distances import (
    class_distances as class_distances,
)
from .evaluator import (
    ContinualEvaluator as ContinualEvaluator,
    bound_score as bound_score,
    entropy_score as entropy_score,
    softmax_score as softmax_score,
)
from .metrics import (
    ContinualScores as ContinualScores,
    OpenSetScores as OpenSetScores,
    auroc_interval as auroc_interval,
    continual_scores as continual_scores,
    open_set_scores as open_set_scores,
    openness as openness,
    rejection_threshold as rejection_threshold,
)
from .open_vae import (
    OpenVAEClassifier as OpenVAEClassifier,
)
from .peaks_over_threshold import (
    PeaksOverThresholdBound as PeaksOverThresholdBound,
    fit_gpd_tail as fit_gpd_tail,
)
from .queries import (
    QueryResult as QueryResult,
    query_pool as query_pool,
)
from .replay import (
    Past as Past,
    Replayed as Replayed,
)
from .report import (
    ContinualReport as ContinualReport,
)
from .selection import (
    BoundFilter as BoundFilter,
    Pool as Pool,
    select_exemplars as select_exemplars,
)
from .task_order import (
    choose_task as choose_task,
    outlier_shares as outlier_shares,
)
from .tasks import (
    Task as Task,
)
from .vae import (
    VAE as VAE,
)
from .weibull import (
    WeibullBound as WeibullBound,
    fit_weibull_tail as fit_weibull_tail,
    weibull_cdf as weibull_cdf,
    weibull_inverse as weibull_inverse,
)
