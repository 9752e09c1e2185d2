from . import (
    adapters as adapters,
    datasets as datasets,
    graphs as graphs,
    group_robust as group_robust,
    inference as inference,
    influence as influence,
    parallel as parallel,
    privacy as privacy,
    solvers as solvers,
)

__version__: str
