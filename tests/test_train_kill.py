"""A training process that is killed without warning, again and again, ends with the weights of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time

from tinygrad_cnn import train

SCRIPT = """
import sys
import numpy as np
from tinygrad_cnn import data, manual_seed, nn, optim, train

manual_seed(3)
rng = np.random.default_rng(0)
images = data.ArrayDataset(rng.random((256, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 256))
model = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 10)
)
loader = data.DataLoader(images, 16, shuffle=True, seed=1, transform=data.transforms.Noise(0.1))
history = train.fit(
    model, loader, optimizer=optim.Adam(model.parameters()), epochs=12, validation=data.DataLoader(images, 256),
    stopping=train.EarlyStopping(20), checkpoint=sys.argv[1], checkpoint_every=0, resume=True,
)
train.save_state_dict_file(sys.argv[1] + ".weights", model.state_dict())
"""


def run(path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], env=environment)


def test_a_run_killed_again_and_again_ends_with_the_same_weights(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(straight).wait(timeout=120) == 0

    chance = random.Random(0)
    kills, places = 0, set()
    while True:
        process = run(killed)
        started = killed.stat().st_mtime_ns if killed.exists() else None
        # Wait until this process has written a checkpoint, so that every one of them makes progress.
        while process.poll() is None and (not killed.exists() or killed.stat().st_mtime_ns == started):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        if process.wait(timeout=60) == 0:
            break
        kills += 1
        progress = train.load_checkpoint(killed)["progress"]  # readable after every kill
        places.add((progress["epoch"], progress["step"]))
        assert kills < 60
        if kills == 6:
            assert run(killed).wait(timeout=120) == 0
            break
    assert kills >= 3
    assert any(step for _, step in places)
    weights = [p.with_name(p.name + ".weights").read_bytes() for p in (straight, killed)]
    assert weights[0] == weights[1]


def test_a_kill_while_the_first_checkpoint_is_written_leaves_no_file_or_a_whole_one(tmp_path):
    for delay in (0.0, 0.001, 0.004):
        path = tmp_path / f"c{delay}"
        process = run(path)
        while process.poll() is None and not list(tmp_path.glob(f".{path.name}*")) and not path.exists():
            pass
        time.sleep(delay)
        process.kill()
        process.wait(timeout=60)
        assert not path.exists() or "model" in train.load_checkpoint(path)
