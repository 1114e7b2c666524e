"""Bi-Real Net's Caffe network in NumPy: forward pass and gradients, from the layers' formulas. NHWC, float64."""

import numpy as np

EPSILON = 1e-5  # of Caffe's BatchNorm


class Network:
    """Layers that remember how to pass gradients back. `gradients` collects those of the weights by name."""

    def __init__(self, weights):
        self.weights, self.gradients, self.statistics = weights, {}, {}

    def add_gradient(self, name, value):
        self.gradients[name] = self.gradients.get(name, 0) + value

    def convolution(self, x, name, stride=1, pad=0, binary=False):
        latent = self.weights[f"{name}/kernel"]
        size = latent.shape[0]
        kernel = np.where(latent >= 0, 1, -1) * np.abs(latent).mean((0, 1, 2)) if binary else latent
        padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        height, width = ((length + 2 * pad - size) // stride + 1 for length in x.shape[1:3])
        windows = [
            (
                row,
                column,
                slice(row, row + stride * (height - 1) + 1, stride),
                slice(column, column + stride * (width - 1) + 1, stride),
            )
            for row, column in np.ndindex(size, size)
        ]
        y = sum(padded[:, rows, columns] @ kernel[row, column] for row, column, rows, columns in windows)
        bias = f"{name}/bias"
        y = y + self.weights.get(bias, 0)

        def back(dy):
            dx, dw = np.zeros_like(padded), np.zeros_like(kernel)
            for row, column, rows, columns in windows:
                dx[:, rows, columns] += dy @ kernel[row, column].T
                dw[row, column] = np.einsum("nhwi,nhwo->io", padded[:, rows, columns], dy)
            self.add_gradient(f"{name}/kernel", dw)  # BinaryConvolutionTrain: that of the binary kernel, unmasked
            if bias in self.weights:
                self.add_gradient(bias, dy.sum((0, 1, 2)))
            return dx[:, pad : pad + x.shape[1], pad : pad + x.shape[2]]

        return y, back

    def norm(self, x, name):
        """BatchNorm and Scale."""
        gamma, beta = self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]
        values = x.size // x.shape[-1]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        self.statistics[name] = mean, variance * values / (values - 1)
        deviation = np.sqrt(variance + EPSILON)
        normal = (x - mean) / deviation

        def back(dy):
            self.add_gradient(f"{name}/gamma", (dy * normal).sum((0, 1, 2)))
            self.add_gradient(f"{name}/beta", dy.sum((0, 1, 2)))
            dn = dy * gamma
            return (dn - dn.mean((0, 1, 2)) - normal * (dn * normal).mean((0, 1, 2))) / deviation

        return gamma * normal + beta, back

    def pool(self, x, size, average):
        """Windows with stride 2 that start at the first pixel; the last ones are cut off at the border."""
        height, width = (-(-(length - size) // 2) + 1 for length in x.shape[1:3])
        y = np.zeros((len(x), height, width, x.shape[-1]))
        picks = {}
        for row, column in np.ndindex(height, width):
            window = x[:, 2 * row : 2 * row + size, 2 * column : 2 * column + size]
            flat = window.reshape(len(x), -1, x.shape[-1])
            y[:, row, column] = flat.mean(1) if average else flat.max(1)
            share = np.full(flat.shape, 1 / flat.shape[1]) if average else flat == flat.max(1, keepdims=True)
            picks[row, column] = share.reshape(window.shape)

        def back(dy):
            dx = np.zeros_like(x)
            for (row, column), share in picks.items():
                window = dx[:, 2 * row : 2 * row + size, 2 * column : 2 * column + size]
                window += share * dy[:, row : row + 1, column : column + 1]
            return dx

        return y, back

    def run(self, images, labels, stages):
        """Return the logits; fill `gradients` with those of the mean cross-entropy, `statistics` with the batch's.

        `stages` is (filters, blocks) of each stage.
        """
        x, conv_back = self.convolution(images, "conv1", 2, 3)
        x, norm_back = self.norm(x, "bn1")
        x, pool_back = self.pool(x, 3, average=False)
        blocks = []
        for stage, (filters, number) in enumerate(stages, 1):
            for index in range(number):
                x, back = self.block(x, f"layer{stage}.{index}", filters)
                blocks.append(back)
        size = x.shape
        features = x.mean((1, 2))
        kernel = self.weights["fc/kernel"]
        logits = features @ kernel + self.weights["fc/bias"]
        share = np.exp(logits - logits.max(1, keepdims=True))
        dlogits = (share / share.sum(1, keepdims=True) - np.eye(logits.shape[1])[labels]) / len(labels)
        self.add_gradient("fc/kernel", features.T @ dlogits)
        self.add_gradient("fc/bias", dlogits.sum(0))
        dx = np.broadcast_to((dlogits @ kernel.T)[:, None, None] / (size[1] * size[2]), size)
        for back in reversed(blocks):
            dx = back(dx)
        self.gradients["images"] = conv_back(norm_back(pool_back(dx)))
        return logits

    def block(self, x, name, filters):
        shrink = x.shape[-1] != filters
        signs = np.where(x > 0, 1.0, -1.0)
        y, conv_back = self.convolution(signs, f"{name}.binary_conv", 2 if shrink else 1, 1, binary=True)
        y, norm_back = self.norm(y, f"{name}.bn1")
        shortcut, backs = x, []
        if shrink:
            shortcut, pool_back = self.pool(x, 2, average=True)
            shortcut, real_back = self.convolution(shortcut, f"{name}.downsample.1")
            backs = [real_back, pool_back]

        def back(dy):
            dx = conv_back(norm_back(dy)) * np.maximum(0, 2 - 2 * np.abs(x))
            for shortcut_back in backs:
                dy = shortcut_back(dy)
            return dx + dy

        return y + shortcut, back
