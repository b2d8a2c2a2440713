"""Every kind of picture on one page: graphs forward, backward and of second order, and a network at work.

python examples/11_gallery.py                        trains LeNet-5 for an epoch, then draws everything
python examples/11_gallery.py --run runs/NAME        takes a trained network
python examples/11_gallery.py --out FOLDER           where to (default: runs/gallery/); open its index.html
python examples/11_gallery.py --quick                a few training steps and fewer pictures
"""

import argparse
import base64
import html
from pathlib import Path

import numpy as np
from tinygrad_cnn.viz import at_work

import tinygrad_cnn as tg
from tinygrad_cnn import data, models, nn, optim, train, viz
from tinygrad_cnn.cli import networks
from tinygrad_cnn.files import write_text
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/gallery"), help="folder")
parser.add_argument("--run", type=Path, help="run folder, checkpoint or weights of a trained network")
parser.add_argument("--quick", action="store_true", help="a few training steps and fewer pictures")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
parts = []


def heading(title, text=""):
    anchor = title.lower().replace(" ", "-")
    parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2><p>{html.escape(text)}</p>')
    print(title)


def show(picture, caption, code=""):
    """Put a picture on the page. Graphs stand there as SVG, which follows light and dark; the rest as PNG."""
    if isinstance(picture, viz.Picture):
        drawn = picture.svg
    else:
        png = base64.b64encode(picture._repr_mimebundle_()["image/png"]).decode()
        drawn = f'<img src="data:image/png;base64,{png}" alt="{html.escape(picture.text, quote=True)}">'
    code = f"<pre><code>{html.escape(code)}</code></pre>" if code else ""
    parts.append(f"<figure><figcaption>{html.escape(caption)}{code}</figcaption><div>{drawn}</div></figure>")


def link(name, text):
    parts.append(f'<p><a href="{name}">{html.escape(text)}</a></p>')


tg.manual_seed(0)
training, test = data.mnist()
history = None
if args.run is not None:
    trained = networks.load(args.run)
    model = trained.model
    training, test = data.mnist(normalise=trained.normalise)
else:
    model = models.LeNet5()
    some = data.Subset(training, range(1280)) if args.quick else training
    history = train.fit(
        model,
        data.DataLoader(some, 64, shuffle=True, seed=0),
        optimizer=optim.Adam(model.parameters(), lr=0.002),
        epochs=2,
        validation=data.DataLoader(data.Subset(test, range(1000)), 500),
    )
images, labels = test.take(np.arange(8))

heading("A product and a sum", "The smallest graphs: a diamond, where two gradients meet, and what each arrow carries.")
a = tg.tensor(2.0, requires_grad=True)
b = tg.tensor(3.0, requires_grad=True)
a.name, b.name = "a", "b"
with viz.record(title="(a b + a)²") as rec:
    c = a * b + a
    y = c * c
    y.backward()
for mode in ("forward", "backward", "both"):
    show(viz.draw(rec, mode), mode, f'viz.draw(rec, "{mode}")')

heading("Shared weights", "One layer applied three times: its weight collects three gradients.")
cell = nn.Linear(3, 3)
with viz.record(title="three times the same layer") as rec:
    h = tg.randn(2, 3)
    for _ in range(3):
        h = F.tanh(cell(h))
    h.sum().backward()
show(viz.draw(rec, "both"), "both", 'viz.draw(rec, "both")')

heading("Second order", "Gradient rules are recorded ops: the backward pass has a graph, and a gradient, of its own.")
x = tg.tensor(2.0, requires_grad=True)
x.name = "x"
with viz.record(title="x³ and its second derivative") as rec:
    (gx,) = tg.grad(x * x * x, x, create_graph=True)
    tg.grad(gx, x)
show(viz.draw(rec, "backward"), "the graph of the backward pass itself", 'viz.draw(rec, "backward")')
show(viz.draw(rec, "both"), "with the forward pass", 'viz.draw(rec, "both")')

heading("NaN", "Hatched where a NaN or an infinity arose, and on its whole way back.")
x = tg.tensor([0.0, 1.0], requires_grad=True)
with viz.record(title="x log x at 0") as rec, np.errstate(all="ignore"):
    (x * x.log()).sum().backward()
show(viz.draw(rec, "both"), "both", 'viz.draw(rec, "both")')

heading("LeNet-5", "One batch of eight digits, forward and backward, with an optimizer step.")
model.train()
optimizer = optim.Adam(model.parameters(), lr=0.002)
with viz.record(timed=True, updates=True, maps=True) as rec:
    optimizer.zero_grad()
    F.cross_entropy(model(tg.tensor(images)), labels).backward()
    optimizer.step()
show(viz.draw(model), "its structure, before it ran", "model   # in a notebook")
for mode in ("forward", "backward", "both"):
    show(viz.draw(rec, mode), mode, f'viz.draw(rec, "{mode}")')
for color_by in ("gradient", "update", "dead", "time", "bytes", "flops"):
    if not args.quick or color_by == "gradient":
        picture = viz.draw(rec, "both", color_by=color_by, depth=1)
        show(picture, f"coloured by {color_by}", f'viz.draw(rec, "both", depth=1, color_by="{color_by}")')
show(viz.draw(rec, "both", depth=1, theme="dark"), "always dark", 'viz.draw(rec, "both", depth=1, theme="dark")')
viz.html(rec.graph, args.out / "lenet5.html")
link("lenet5.html", "The same graph as a page: walk through the backward pass step by step")

if not args.quick:
    heading("ResNet-152", "Equal blocks in a row are drawn once. Unfolded it is a file of its own.")
    net = models.build("resnet152")
    with viz.record() as rec:
        F.cross_entropy(net(tg.randn(1, 3, 64, 64)), np.array([1])).backward()
    gradients = 'viz.draw(rec, "both", depth=2, color_by="gradient")'
    show(viz.draw(rec, depth=2), "depth 2", "viz.draw(rec, depth=2)")
    show(viz.draw(rec, "both", depth=2, color_by="gradient"), "gradients", gradients)
    viz.draw(rec, fold=False).save(args.out / "resnet152.svg")
    link("resnet152.svg", "Every op of ResNet-152")

heading("A network at work", "LeNet-5 on digits it was not trained on.")
result = train.evaluate(model, data.DataLoader(test, 500))
image = images[0]
wrong = at_work.mistakes(test.images, result, most=20 if args.quick else 100)
sheets = [
    (at_work.filters(model), "The filters", "at_work.filters(model)"),
    (at_work.feature_maps(model, image), "Feature maps of every layer", "at_work.feature_maps(model, image)"),
    (at_work.explanations(model, image), "Which pixels it rests on", "at_work.explanations(model, image)"),
    (at_work.shift(model, image), "Equivariance and invariance", "at_work.shift(model, image)"),
    (at_work.confusion(result), "Confusion matrix", "at_work.confusion(result)"),
    (
        at_work.mistakes(test.images, result, most=20 if args.quick else 100),
        "Mistakes",
        "at_work.mistakes(images, result)",
    ),
    (
        at_work.vanishing(*training.take(np.arange(2000)), steps=20 if args.quick else 200),
        "Gradient norms over training, sigmoid against ReLU",
        "at_work.vanishing(images, labels)",
    ),
]
if history:
    sheets.append((at_work.curves(history), "Training curves", "at_work.curves(history)"))
for sheet, caption, code in sheets:
    show(sheet, f"{caption}: {sheet.text}", code)
sheet = at_work.feature_maps(model, image, theme="dark")
show(sheet, "In the dark", 'at_work.feature_maps(model, image, theme="dark")')

style = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
figure{margin:2rem 0;border-top:1px solid #8885;padding-top:1rem}figcaption{margin-bottom:.5rem}
pre{margin:.3rem 0;overflow-x:auto;font-size:.85rem;opacity:.85}img,svg{max-width:100%;height:auto}
figure>div{overflow-x:auto}
"""
page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tinygrad_cnn: pictures</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head>
<body><h1>Pictures</h1>{"".join(parts)}</body></html>
"""
write_text(args.out / "index.html", page)
print(f"{args.out / 'index.html'}: {len(page) / 1e6:.1f} MB")
