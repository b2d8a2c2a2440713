"""Several feature maps: a first layer of 4 filters and a second of 6, each of which looks at all 4 maps, on a digit.

python examples/12_feature_maps.py                    prints what is connected to what
python examples/12_feature_maps.py --out FOLDER       draws the network and its maps (maps need the extra `plot`)
"""

import argparse
from pathlib import Path

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import data, nn, viz

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="accepted like everywhere; this is quick")
args = parser.parse_args()


class TwoLayers(nn.Module):
    """Two convolutions with pooling between them; the first filters are edges in four directions."""

    def __init__(self):
        self.conv1 = nn.Conv2d(1, 4, 3, padding="same")
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, padding="same")
        edge = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float32) / 4
        self.conv1.weight.data = np.stack([edge, -edge, edge.T, -edge.T])[:, None]
        self.conv1.bias.zero_()

    def forward(self, x):
        return self.conv2(self.pool(self.conv1(x).relu())).relu()


tg.manual_seed(0)
model = TwoLayers()
digit, label = data.mnist().test.take([0])
print(nn.summary(model, (1, 1, 28, 28)))
maps = model.conv1(digit).relu().numpy()[0]
print(f"a digit {label.item()} through the first four filters, mean activation of each map:")
for name, plane in zip(("left edges", "right edges", "upper edges", "lower edges"), maps, strict=True):
    print(f"  {name:12} {plane.mean():.3f}")
print("each filter of the second layer has a 3x3 kernel for each of these 4 maps: 6 filters, 6 x 4 kernels")

if args.out:
    args.out.mkdir(parents=True, exist_ok=True)
    picture = viz.draw(model(digit).sum(), "forward")
    picture.save(args.out / "two_layers.svg")
    from tinygrad_cnn.viz import at_work

    at_work.feature_maps(model, digit).save(args.out / "two_layers_maps.png")
    print(f"wrote {args.out / 'two_layers.svg'} and {args.out / 'two_layers_maps.png'}")
