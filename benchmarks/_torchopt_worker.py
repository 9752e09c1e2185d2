"""Meta-gradients by TorchOpt's unrolled step, in CPU time; runs inside .venv-torchopt.

Called with a file of tensors (see `head` and `full` in benchmarks/loss_mixing.py); writes the gradients and times beside it.
"""

import sys
import time

import torch
import torchopt
from _mixing_networks import NETWORKS, mixed_losses

torch.set_num_threads(1)
case = torch.load(sys.argv[1], weights_only=True)
results = {}
for name, data in case.items():
    module = NETWORKS[name]()
    module.load_state_dict(data["state"])
    module = module.to(data["X"].dtype).eval()
    lam = data["weights"].clone().requires_grad_()
    optimizer = torchopt.MetaSGD(module, lr=data["lr"])
    times = []
    for _ in range(data["repeats"]):
        start = time.process_time()
        state = torchopt.extract_state_dict(module)
        optimizer_state = torchopt.extract_state_dict(optimizer)
        losses = mixed_losses(module(data["X"]), data["y"], data["teachers"])
        optimizer.step((lam * losses).mean(0).sum())
        after = torch.nn.functional.cross_entropy(module(data["X_val"]), data["y_val"])
        (gradient,) = torch.autograd.grad(after, lam)
        torchopt.recover_state_dict(module, state)
        torchopt.recover_state_dict(optimizer, optimizer_state)
        times.append(time.process_time() - start)
    results[name] = {"gradient": gradient.detach(), "times": times}
torch.save(results, sys.argv[2])
