"""AlexNet and its relatives: the winners of 2012 and 2013, and SPP-net of 2014."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..errors import OptionError
from ..nn import functional as F  # noqa: N812 - the field's name for it
from ..nn import init
from ..ops import concatenate

__all__ = ["AlexNet", "OverFeat", "SPPNet", "ZFNet"]


def _classifier(inputs: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Return the three fully connected layers that all these networks end with."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def _start(model: nn.Module, std: float = 0.01) -> None:
    """Draw all weights from the normal distribution with this deviation, with biases 0: the papers' rule."""
    init.apply_(model, init.normal_, std=std)


class AlexNet(nn.Module):
    """AlexNet (team SuperVision), winner of ImageNet 2012.

    Args:
        num_classes: how many logits.
        dropout: share of the hidden units dropped in training.
        form: "modern", the one-column network of Krizhevsky 2014 with the names of torchvision, 61 100 840 parameters;
            or "original", the network of the paper in two columns (2 groups in conv2, conv4, conv5) with local response
            normalisation, 60 965 224 parameters.
        hidden: units of the fully connected layers, 4096.

    Images: 3x224x224; other sizes from 63x63 on work too, since the last maps are averaged to 6x6.

    Raises:
        OptionError: another form.

    Source: Krizhevsky, Sutskever & Hinton, NIPS 2012; Krizhevsky, One weird trick, arXiv:1404.5997, 2014.
    """

    def __init__(
        self, num_classes: int = 1000, dropout: float = 0.5, form: str = "modern", *, hidden: int = 4096
    ) -> None:
        if form not in ("modern", "original"):
            raise OptionError(f"AlexNet: form must be 'modern' or 'original', got {form!r}")
        self.features = self._modern() if form == "modern" else self._original()
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = _classifier(256 * 36, hidden, num_classes, dropout)
        if form == "original":
            _start(self)
            for layer in (
                self.features[4],
                self.features[10],
                self.features[12],
                self.classifier[1],
                self.classifier[4],
            ):
                init.ones_(layer.bias)  # so that the ReLUs start in their linear part

    @staticmethod
    def _modern() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )

    @staticmethod
    def _original() -> nn.Sequential:
        # The paper's α = 1e-4 multiplies the sum over 5 channels; ours is divided by their number.
        return nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w)."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def _zf_features() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        nn.Conv2d(96, 256, 5, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
    )


class ZFNet(nn.Module):
    """ZFNet, the net behind the winner of ImageNet 2013 (Clarifai): AlexNet in one column with a finer first layer.

    7x7 filters with stride 2 replace AlexNet's 11x11 with stride 4, which pictures of the features had shown to
    miss middle frequencies. 62 357 608 parameters.

    Args:
        num_classes: how many logits.
        dropout: share of the hidden units dropped in training.
        hidden: units of the fully connected layers, 4096.

    Images: 3x224x224; others from 63x63 on work too, since the last maps are averaged to 6x6.

    Source: Zeiler & Fergus, Visualizing and understanding convolutional networks, ECCV 2014, figure 3.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, hidden: int = 4096) -> None:
        self.features = _zf_features()
        self.features.append(nn.MaxPool2d(3, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = _classifier(256 * 36, hidden, num_classes, dropout)
        _start(self)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w)."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class SPPNet(nn.Module):
    """SPP-net (MSRA): the layers of ZFNet, then a spatial pyramid of maxima, so that images of any size fit.

    The last maps are pooled into grids of 6x6, 3x3, 2x2 and 1x1 cells: 50 cells times 256 maps whatever the size of the
    image. 77 037 672 parameters by this count; the paper states none. The cells are those of adaptive pooling, ⌊i h/n⌋
    to ⌈(i+1) h/n⌉; the paper's windows of ⌈h/n⌉ with stride ⌊h/n⌋ give another number of cells for some sizes.

    Args:
        num_classes: how many logits.
        levels: cells along one side of each grid.
        dropout: share of the hidden units dropped in training.
        hidden: units of the fully connected layers, 4096.

    Source: He, Zhang, Ren & Sun, Spatial pyramid pooling in deep convolutional networks, ECCV 2014, with the base
    network ZF-5.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        levels: tuple[int, ...] = (6, 3, 2, 1),
        dropout: float = 0.5,
        *,
        hidden: int = 4096,
    ) -> None:
        self.features = _zf_features()
        self.levels = tuple(levels)
        self.classifier = _classifier(256 * sum(n * n for n in self.levels), hidden, num_classes, dropout)
        _start(self)

    def pyramid(self, maps: Any) -> Any:
        """Return the maxima (n, c · Σ cells) of maps (n, c, h, w), the finest grid first."""
        return concatenate(*[F.flatten(F.adaptive_max_pool2d(maps, n), 1) for n in self.levels], axis=1)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w) of any size."""
        return self.classifier(self.pyramid(self.features(x)))


class OverFeat(nn.Module):
    """OverFeat, winner of ImageNet 2013's localisation: a classifier that slides over images larger than its window.

    Its fully connected layers are convolutions, so an image larger than the window gives a map of logits, one per
    position every 32 (fast) or 36 (accurate) pixels; `forward` averages them, `logit_map` returns them. (Not quite
    those of each window cut out: the 3x3 layers see its surroundings, where the window alone would be padded.)

    Args:
        num_classes: how many logits.
        form: "fast" (window 231x231, 145 920 872 parameters) or "accurate" (221x221, 144 656 488 parameters).
        dropout: share of the hidden units dropped in training.
        hidden: units of the two fully connected layers; by default those of the paper.

    Raises:
        OptionError: another form.

    Source: Sermanet, Eigen, Zhang, Mathieu, Fergus & LeCun, ICLR 2014, tables 1 and 3.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        form: str = "fast",
        dropout: float = 0.5,
        *,
        hidden: tuple[int, int] | None = None,
    ) -> None:
        if form == "fast":
            layers = [
                nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(96, 256, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(),
            ]  # fmt: skip
            window, last, (first, second) = 6, nn.MaxPool2d(2), hidden or (3072, 4096)
        elif form == "accurate":
            layers = [
                nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3),
                nn.Conv2d(96, 256, 7), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(),
                nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(),
            ]  # fmt: skip
            window, last, (first, second) = 5, nn.MaxPool2d(3), hidden or (4096, 4096)
        else:
            raise OptionError(f"OverFeat: form must be 'fast' or 'accurate', got {form!r}")
        self.features = nn.Sequential(
            *layers,
            nn.Conv2d(512, 1024, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 3, padding=1),
            nn.ReLU(),
            last,
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(1024, first, window),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(first, second, 1),
            nn.ReLU(),
            nn.Conv2d(second, num_classes, 1),
        )
        _start(self)

    def logit_map(self, x: Any) -> Any:
        """Return the logits (n, num_classes, positions down, positions across) of every position of the window."""
        return self.classifier(self.features(x))

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes), averaged over all positions of the window."""
        return self.logit_map(x).mean(axis=(2, 3))
