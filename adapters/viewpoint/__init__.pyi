from .baselines import (
    GreedyInformationPolicy as GreedyInformationPolicy,
    NearestFrontalPolicy as NearestFrontalPolicy,
    OrbitPolicy as OrbitPolicy,
    RandomPolicy as RandomPolicy,
    TourPolicy as TourPolicy,
)
from .camera import (
    plate_quality as plate_quality,
)
from .candidates import (
    CANDIDATES as CANDIDATES,
    candidate_viewpoints as candidate_viewpoints,
)
from .displays import (
    BeliefsDisplay as BeliefsDisplay,
    ByNumberDisplay as ByNumberDisplay,
    SurvivalDisplay as SurvivalDisplay,
    TrajectoryDisplay as TrajectoryDisplay,
)
from .dynamics import (
    KinematicDynamics as KinematicDynamics,
)
from .dynamics.tracked import (
    TrackedDynamics as TrackedDynamics,
)
from .environment import (
    ActiveClassificationEnv as ActiveClassificationEnv,
)
from .evaluation import (
    evaluate as evaluate,
)
from .flight_plans import (
    Ellipsoid as Ellipsoid,
)
from .fusion import (
    PoseDiscountFusion as PoseDiscountFusion,
    ProductFusion as ProductFusion,
    TemperedFusion as TemperedFusion,
    fuse_beliefs as fuse_beliefs,
)
from .information import (
    entropy as entropy,
    expected_information as expected_information,
    information as information,
)
from .motion import (
    BrownianMotion as BrownianMotion,
    ConstantVelocity as ConstantVelocity,
    MixedMotion as MixedMotion,
    SocialForce as SocialForce,
    StaticTargets as StaticTargets,
)
from .mpc import (
    ViewpointMPC as ViewpointMPC,
)
from .policy import (
    ViewpointPolicy as ViewpointPolicy,
)
from .ppo import (
    export_sb3_env as export_sb3_env,
)
from .results import (
    ViewpointResults as ViewpointResults,
)
from .trajectory import (
    Trajectory as Trajectory,
    rollout as rollout,
)
from .scenario import (
    Scenario as Scenario,
)
from .scene import (
    OBSERVATION_COLUMNS as OBSERVATION_COLUMNS,
    Scene as Scene,
    StepResult as StepResult,
)
from .sensors import (
    AnalyticSensor as AnalyticSensor,
    DigitPlateRenderer as DigitPlateRenderer,
    NoisySensor as NoisySensor,
    PredictProbaSensor as PredictProbaSensor,
    TableSensor as TableSensor,
    fit_sensor as fit_sensor,
    log_looks as log_looks,
    reliability as reliability,
)
from .vector import (
    ActiveClassificationVectorEnv as ActiveClassificationVectorEnv,
)
from .visibility import (
    visible_targets as visible_targets,
)
