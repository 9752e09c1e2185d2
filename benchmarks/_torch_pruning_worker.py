"""Halves the channels of a network with Torch-Pruning and times it before and after; runs inside .venv-torch-pruning.

Called with the file of the network's weights and the sizes of the batches; prints JSON.
"""

import copy
import json
import sys

import torch
import torch_pruning
from _residual_net import CPU_REPEATS, ResidualNet, cpu_times

torch.set_num_threads(1)
net = ResidualNet()
net.load_state_dict(torch.load(sys.argv[1], weights_only=True))
net.eval()
example = torch.randn(2, 1, 28, 28)
small = copy.deepcopy(net)
pruner = torch_pruning.pruner.MetaPruner(
    small,
    example,
    importance=torch_pruning.importance.MagnitudeImportance(p=2),
    pruning_ratio=0.5,
    ignored_layers=[small.head],
)
pruner.step()
result = {"parameters": sum(p.numel() for p in small.parameters())}
for batch in map(int, sys.argv[2:]):
    x = torch.randn(batch, 1, 28, 28)
    dense, pruned = cpu_times([lambda: net(x), lambda: small(x)], CPU_REPEATS)  # noqa: B023
    ratios = sorted((dense / pruned).tolist())
    result[str(batch)] = ratios[len(ratios) // 2]
print(json.dumps(result))
