"""PyTorch's input pipeline, for `input_pipeline.py`: torchvision's transforms in as many worker processes as cores.

Without torchvision, the same steps with Pillow, on which torchvision's transforms of images are built. It runs in a
process of its own, because forking one with TensorFlow's threads can hang: it reads the pickled arguments of
`images_per_second` from standard input and prints the rate.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

# The principal components of ImageNet's colours: deviations, and one component per column (Krizhevsky et al. 2012).
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045], np.float32)
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32)
COLOURS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}

Transform = Callable[[Image.Image], Any]


class Images(torch.utils.data.Dataset):
    """Images as JPEG files or pixels, transformed when they are read, over and over.

    Args:
        images: JPEG files, or arrays (height, width, channels).
        augmentation: Augmentation of an experiment; None for evaluation.
        size: Height and width of the network's images.
        epochs: How often each image is read.
    """

    def __init__(
        self, images: Sequence[bytes | np.ndarray], augmentation: Mapping[str, Any] | None, size: int, epochs: int
    ):
        self.images, self.augmentation, self.size, self.epochs = images, augmentation, size, epochs
        self.transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.images) * self.epochs

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.transform is None:  # made in the worker, because it need not survive pickling
            make = torchvision_transform if importlib.util.find_spec("torchvision") else pillow_transform
            self.transform = make(self.augmentation, self.size)
        image = self.images[index % len(self.images)]
        if isinstance(image, bytes):
            return self.transform(Image.open(io.BytesIO(image)).convert("RGB"))
        return self.transform(Image.fromarray(image))


def images_per_second(
    images: Sequence[bytes | np.ndarray], augmentation: Mapping[str, Any] | None, size: int, batch: int, number: int
) -> float:
    """Measure images per second over `number` images. The first batches start the workers and are not measured."""
    batches = iter(
        torch.utils.data.DataLoader(
            Images(images, augmentation, size, epochs=10_000), batch, num_workers=os.cpu_count() or 1
        )
    )
    for _ in range(4):
        next(batches)
    steps, start = max(1, number // batch), time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * batch / (time.perf_counter() - start)


def torchvision_transform(augmentation: Mapping[str, Any] | None, size: int) -> Transform:
    """Return the steps as transforms of torchvision."""
    from torchvision import transforms

    options = augmentation or {}
    steps: list[Any] = []
    if options.get("crop") == "random_area":
        steps.append(transforms.RandomResizedCrop(size))
    elif not options.get("pad"):
        crop = transforms.RandomCrop if options.get("crop") == "random" else transforms.CenterCrop
        steps += [transforms.Resize(size * 256 // 224), crop(size)]
    if options.get("pad"):
        steps.append(transforms.RandomCrop(size, options["pad"]))
    if options.get("flip"):
        steps.append(transforms.RandomHorizontalFlip())
    if "brightness" in options:
        steps.append(transforms.ColorJitter(**{name: options[name] for name in COLOURS}))
    steps.append(transforms.ToTensor())
    if "lighting" in options:
        steps.append(lambda image: image + torch.from_numpy(_lighting(options["lighting"])).reshape(3, 1, 1))
    return transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.25] * 3)])


def pillow_transform(augmentation: Mapping[str, Any] | None, size: int) -> Transform:
    """Return the same steps with Pillow and NumPy."""
    options = augmentation or {}

    def transform(image: Image.Image) -> torch.Tensor:
        if options.get("crop") == "random_area":
            image = image.resize((size, size), Image.Resampling.BILINEAR, _random_area(*image.size))
        elif options.get("pad"):
            image = _cut(ImageOps.expand(image, options["pad"]), size, random.random(), random.random())
        else:
            scale = size * 256 // 224 / min(image.size)
            image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
            position = [random.random() if options.get("crop") else 0.5 for _ in range(2)]
            image = _cut(image, size, *position)
        if options.get("flip") and random.random() < 0.5:
            image = ImageOps.mirror(image)
        for name in random.sample([name for name in COLOURS if name in options], k=len(COLOURS & options.keys())):
            image = COLOURS[name](image).enhance(random.uniform(1 - options[name], 1 + options[name]))
        pixels = np.asarray(image, np.float32) / 255
        if "lighting" in options:
            pixels = pixels + _lighting(options["lighting"])
        return torch.from_numpy(np.ascontiguousarray(((pixels - 0.5) / 0.25).transpose(2, 0, 1)))

    return transform


def _random_area(width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box of 8 to 100 % of the pixels, width / height from 3/4 to 4/3; after ten tries the whole image."""
    for _ in range(10):
        area, aspect = random.uniform(0.08, 1) * width * height, math.exp(random.uniform(-1, 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def _cut(image: Image.Image, size: int, x: float, y: float) -> Image.Image:
    left, top = round(x * (image.width - size)), round(y * (image.height - size))
    return image.crop((left, top, left + size, top + size))


def _lighting(deviation: float) -> np.ndarray:
    return COMPONENTS @ (DEVIATIONS * np.random.normal(0, deviation, 3).astype(np.float32))


if __name__ == "__main__":
    print(images_per_second(*pickle.load(sys.stdin.buffer)))
