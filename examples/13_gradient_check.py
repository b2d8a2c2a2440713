"""What the gradient checker says: a mistake by name, a kink by its convention, a network, and a wrong op in a picture.

python examples/13_gradient_check.py
"""

import argparse
from pathlib import Path

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, ops, viz
from tinygrad_cnn.gradcheck import check_graph, check_pair
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a smaller network sample")
quick = parser.parse_args().quick
rng = np.random.default_rng(0)

print("1. Two plain NumPy functions. The mean over the batch is a mistake that a number alone would not explain.\n")


def affine(x, w, b):
    return x @ w + b


def affine_backward(dout, x, w, b):
    return dout @ w.T, x.T @ dout, dout.mean(axis=0)


print(
    check_pair(affine, affine_backward, (rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)), seed=1)
)

print("\n2. ReLU at 0 has no derivative; any value between the slopes is legal, and the check says which was taken.\n")
zeros = np.array([[0.0, -1.0, 2.0]])
print(tg.gradcheck(ops.relu, (zeros,), options={"at_zero": "average"}, seed=1))

print("\n3. relu(x) - relu(-x) is x, with the derivative 1; automatic differentiation gives 0 at 0. No mistake.\n")
print(tg.gradcheck(lambda x: ops.relu(x) - ops.relu(-x), (zeros,), seed=1))

print("\n4. LeNet-5: some weights of every layer, in float64, and what float32 makes of them.\n")
tg.manual_seed(0)
model = tg.models.LeNet5()
images, labels = Tensor(rng.normal(size=(2, 1, 28, 28)).astype(np.float32)), np.array([3, 8])
print(
    tg.gradcheck(
        lambda x: F.cross_entropy(model(x), labels), (images,), parameters=model, seed=1, sample=80 if quick else 300
    )
)

print("\n5. The same network with a max pooling that loses a tenth of its gradient: which op is it?\n")
right = ops.max_pool2d.rules
ops.max_pool2d.rules = (lambda g, y, x, **options: right[0](g, y, x, **options) * 0.9,)
try:
    loss = F.cross_entropy(model(images), labels)
    found = check_graph(loss)
finally:
    ops.max_pool2d.rules = right
print(found)
picture = viz.GraphIR.of(loss)
found.mark(picture)
Path("runs").mkdir(exist_ok=True)
viz.draw(picture, color_by="gradient-check error").save("runs/wrong_op.svg")
print("\npainted on the graph: runs/wrong_op.svg")
