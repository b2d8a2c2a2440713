"""The comparison of Kingma & Ba (2014) on MNIST: training loss of logistic regression, an MLP with dropout, and a CNN.

python examples/10_optimizers.py --out optimizers.svg      needs the extra `plot`
python examples/10_optimizers.py --quick
"""

import argparse

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import data, models, nn, optim
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps of each")
parser.add_argument("--steps", type=int, default=600, help="steps of each run (default: %(default)s)")
parser.add_argument("--out", help="file for the plot, .svg or .png; without it only the numbers are printed")
args = parser.parse_args()
steps = 4 if args.quick else args.steps

NETWORKS = {
    "logistic regression": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "MLP with dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)
    ),
    "LeNet-5": models.LeNet5,
}
OPTIMIZERS = {
    "SGD Nesterov": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "AdaGrad": lambda p: optim.AdaGrad(p, lr=0.01),
    "RMSProp": lambda p: optim.RMSProp(p, lr=1e-3),
    "AdaDelta": lambda p: optim.AdaDelta(p, lr=1.0),
    "Adam": lambda p: optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: optim.AdamW(p, lr=1e-3),
}

train = data.mnist().train
curves: dict[str, dict[str, list[float]]] = {}
for network, build in NETWORKS.items():
    print(f"{network}: mean training loss over the last tenth of {steps} steps")
    curves[network] = {}
    for name, make in OPTIMIZERS.items():
        tg.manual_seed(0)
        model = build()
        optimizer = make(model.parameters())
        losses: list[float] = []
        while len(losses) < steps:
            for x, y in data.DataLoader(train, batch_size=128, shuffle=True, seed=len(losses)):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    break
        curves[network][name] = losses
        print(f"  {name:14} {np.mean(losses[-max(steps // 10, 1) :]):.4f}")

if args.out:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for ax, (network, runs) in zip(axes, curves.items(), strict=True):
        for name, losses in runs.items():
            window = max(steps // 40, 1)
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            ax.plot(np.arange(len(smooth)) + window, smooth, label=name)
        ax.set(title=network, xlabel="step", ylabel="training loss", yscale="log")
    axes[0].legend()
    figure.savefig(args.out)
    print(f"wrote {args.out}")
