"""A small residual network, trained on scikit-learn's digits, for the tests of the method."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    """A residual block, with a ReLU that overwrites its input."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Conv2d(n_in, n_out, 1, stride) if (n_in, stride) != (n_out, 1) else None

    def forward(self, x):
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x if self.short is None else self.short(x)
        return self.relu(y)


class SmallNet(nn.Module):
    """A stem, two residual blocks, a depthwise separable block, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.pointwise = nn.Conv2d(16, 24, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        x = nn.functional.relu(self.norm2(self.depthwise(x)), inplace=True)
        x = torch.relu(self.norm3(self.pointwise(x)))
        return self.head(x.mean((2, 3)).view(x.size(0), -1))


def prepared():
    X, y = load_digits(return_X_y=True)
    X = (X - X.mean()) / X.std()
    return X.reshape(-1, 1, 8, 8).astype("float32"), y


@pytest.fixture(scope="session")
def digits():
    X, y = prepared()
    return X[1200:], y[1200:]


@pytest.fixture(scope="session")
def small_net():
    X, y = (torch.from_numpy(a[:1200]) for a in prepared())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(10):
            for part in torch.randperm(len(X)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(X[part]), y[part]).backward()
                optimizer.step()
    return net.eval()
