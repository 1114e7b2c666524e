"""Training steps of XNOR-Net's LeNet-5 and IR-Net's ResNet-20 in PyTorch, written from their formulas.

`train_step.py` measures them. They do the operations of the references' code in the same order, with weights, gradients
and optimizers of the same sizes: XNOR-Net-PyTorch, MNIST (one step of its `main.py` with `util.py`), and IR-Net,
CIFAR-10/ResNet20/1w1a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class ClippedSign(torch.autograd.Function):
    """sign(x) with the gradient dy where |x| < 1, else 0."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        """Return ±1."""
        context.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(context: Any, dy: torch.Tensor) -> torch.Tensor:
        """Return the gradient of x."""
        (x,) = context.saved_tensors
        dx = dy.clone()
        dx[x >= 1] = 0
        dx[x <= -1] = 0
        return dx


class ErrorDecaySign(torch.autograd.Function):
    """sign(x) with the gradient k · t · (1 − tanh²(t · x)) · dy."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return ±1."""
        context.save_for_backward(x, k, t)
        return x.sign()

    @staticmethod
    def backward(context: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x, and None for k and t."""
        x, k, t = context.saved_tensors
        return k * t * (1 - torch.tanh(x * t).pow(2)) * dy, None, None


class BinaryBlock(nn.Module):
    """Batch norm with scales of at least 0.01, sign, convolution or dense layer, ReLU."""

    def __init__(self, inputs: int, layer: nn.Module):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs, eps=1e-4)
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activations, (batch, …)."""
        self.norm.weight.data.clamp_(min=0.01)
        x = ClippedSign.apply(self.norm(x))
        return functional.relu(self.layer(x.flatten(1) if isinstance(self.layer, nn.Linear) else x))


class LeNet5(nn.Module):
    """XNOR-Net's LeNet-5, with two binary layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 20, 5), nn.BatchNorm2d(20, eps=1e-4, affine=False)
        self.conv2, self.ip1 = BinaryBlock(20, nn.Conv2d(20, 50, 5)), BinaryBlock(50, nn.Linear(800, 500))
        self.ip2 = nn.Linear(500, 10)
        self.kernels = [self.conv2.layer.weight, self.ip1.layer.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, 10)."""
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 2)
        return self.ip2(self.ip1(functional.max_pool2d(self.conv2(x), 2)))


def _scales(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.abs().flatten(1).mean(1).reshape(-1, *[1] * (kernel.dim() - 1))


def lenet5() -> tuple[nn.Module, Callable[[torch.Tensor, torch.Tensor], None]]:
    """Return LeNet-5 and its training step: latent kernels are centred, clipped, binarized, and restored."""
    network = LeNet5()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-5)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        saved = []
        for kernel in network.kernels:
            kernel.data -= kernel.data.mean(1, keepdim=True)
            kernel.data.clamp_(-1, 1)
            saved.append(kernel.data.clone())
            kernel.data = kernel.data.sign() * _scales(kernel.data)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        for kernel, latent in zip(network.kernels, saved, strict=True):
            kernel.data.copy_(latent)
            signs, numbers = latent.sign(), latent[0].numel()
            through_sign = _scales(latent).expand_as(latent).clone()
            through_sign[latent < -1] = 0
            through_sign[latent > 1] = 0
            sums = (signs * kernel.grad).flatten(1).sum(1).reshape(-1, *[1] * (latent.dim() - 1))
            gradient = through_sign * kernel.grad + signs * sums / numbers
            kernel.grad = gradient * (1 - 1 / latent.shape[1]) * numbers
        optimizer.step()

    return network, step


class BalancedConv2d(nn.Conv2d):
    """Convolution of signs with IR-Net's balanced kernel, ±2ⁿ."""

    k, t = torch.tensor([10.0]), torch.tensor([0.1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sums, (batch, filters, height, width)."""
        shape = (-1, 1, 1, 1)
        centred = self.weight - self.weight.flatten(1).mean(1).reshape(shape)
        standardised = centred / centred.flatten(1).std(1).reshape(shape)
        magnitude = torch.log(standardised.abs().flatten(1).mean(1)) / math.log(2)
        scale = torch.pow(2.0, magnitude.round()).reshape(shape).detach()
        kernel = ErrorDecaySign.apply(standardised, self.k, self.t) * scale
        return functional.conv2d(ErrorDecaySign.apply(x, self.k, self.t), kernel, None, self.stride, self.padding)


class ResidualBlock(nn.Module):
    """Two binary convolutions, each with a shortcut."""

    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.stride, self.margin = stride, (filters - inputs) // 2
        self.conv1 = BalancedConv2d(inputs, filters, 3, stride, 1, bias=False)
        self.conv2 = BalancedConv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activations, (batch, filters, height, width)."""
        shortcut = x
        if self.stride > 1:
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.margin, self.margin))
        x = functional.hardtanh(self.norm1(self.conv1(x)) + shortcut)
        return functional.hardtanh(self.norm2(self.conv2(x)) + x)


class ResNet20(nn.Module):
    """IR-Net's ResNet-20 with a shortcut per convolution."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(ResidualBlock(*size) for size in sizes))
        self.norm2, self.linear = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, 10)."""
        x = self.blocks(functional.hardtanh(self.norm1(self.conv1(x))))
        return self.linear(self.norm2(functional.avg_pool2d(x, x.shape[3]).flatten(1)))


def resnet20() -> tuple[nn.Module, Callable[[torch.Tensor, torch.Tensor], None]]:
    """Return ResNet-20 and its training step."""
    network = ResNet20()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return network, step


# Network and scheme of a reference → its training step in PyTorch.
NETWORKS = {("lenet5", "xnor"): lenet5, ("resnet20", "irnet"): resnet20}


def training_step(network: str, scheme: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """Return a training step on one batch of images, (batch, height, width, channels)."""
    _, step = NETWORKS[network, scheme]()
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels)
    return lambda: step(*batch)
