"""A training loop as a PyTorch user writes it: LeNet-5 on MNIST with Adam. `tinygrad-cnn train` does this and more.

python examples/05_train_lenet5.py            96 to 97 % after one epoch
python examples/05_train_lenet5.py --quick    a few steps
"""

import argparse

import tinygrad_cnn as tg
from tinygrad_cnn import data, models, optim
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps only")
args = parser.parse_args()

tg.manual_seed(0)
train, test = data.mnist()
loader = data.DataLoader(train, batch_size=64, shuffle=True, seed=0)
test_loader = data.DataLoader(test, batch_size=1000)
model = models.LeNet5()
optimizer = optim.Adam(model.parameters(), lr=1e-3)

model.train()
for step, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step:4d}  loss {loss.item():.4f}")
    if args.quick and step == 30:
        break

model.eval()
correct = 0
with tg.no_grad():
    for x, y in test_loader:
        correct += (model(x).argmax(dim=1) == y).sum().item()
print(f"test accuracy {correct / len(test):.2%}")
