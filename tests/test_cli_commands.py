"""The command itself, and `evaluate`, `predict`, `summary` and `info`."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinygrad_cnn import __version__, data
from tinygrad_cnn.cli import COMMANDS, main, networks
from tinygrad_cnn.cli.prediction import as_digit, read_grey
from tinygrad_cnn.errors import DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network trained for a moment on real digits."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["train", "--limit", "3000", "--epochs", "4", "--augment", "0.5", "--lr", "3e-3", "--batch-size", "32"]
    assert main([*words, "--out", str(folder / "runs" / "one"), "--no-pictures"]) == 0
    return folder / "runs" / "one"


def test_without_words_or_with_help_the_commands_are_listed(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert all(re.search(rf"^  {c.name} +\w", printed, re.MULTILINE) for c in COMMANDS)


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        assert main([command.name, "--help"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"usage: tinygrad-cnn {command.name}")


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "summary", "info"])
def test_every_option_with_a_value_names_its_default(name, capsys):
    main([name, "--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for option in re.findall(r"(--[\w-]+ [A-Z][\w.]*) ", text):
        if option not in ("--resume FOLDER",):
            described = text.split(option, 1)[1].split(" --")[0]
            assert "[default: " in described, option


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tinygrad-cnn {__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'trian'; did you mean 'train'?\n"
    assert main(["zzz"]) == 2
    assert "the commands are train, evaluate" in capsys.readouterr().err


def test_help_starts_without_what_only_commands_need():
    code = "import sys; from tinygrad_cnn.cli import main; main(['--help']); " \
        "print(sorted({'rich', 'matplotlib', 'safetensors', 'PIL', 'threadpoolctl'} & set(sys.modules)))"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_the_module_runs_as_the_command_and_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m tinygrad_cnn info | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("tinygrad_cnn")
    assert done.stderr == ""


def test_ctrl_c_in_a_command_is_code_130_without_a_traceback(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinygrad_cnn.cli.info.run", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_evaluate_prints_accuracy_and_matrix_or_json(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] > 0.9
    assert np.sum(result["confusion"]) == result["count"] == 10000
    assert np.trace(result["confusion"]) == round(result["accuracy"] * 10000) == 10000 - len(result["mistakes"])
    assert main(["evaluate", str(run / "model.safetensors"), "--batch-size", "1000"]) == 0
    printed = capsys.readouterr().out
    assert f"test accuracy {100 * result['accuracy']:.2f} %" in printed
    assert "confusion matrix: a row per digit, a column per answer" in printed


def test_evaluate_and_predict_take_the_run_trained_last(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.parent.parent)
    file = tmp_path / "seven.png"
    Image.fromarray(data.mnist().test.images[0, 0]).save(file)
    assert main(["predict", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digit"] == 7
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 1
    assert "there is no trained network in runs/; train one with tinygrad-cnn train" in capsys.readouterr().err


def test_evaluate_refuses_what_does_not_fit(run, tmp_path, capsys):
    cases = {
        "cut off": (run / "model.safetensors").read_bytes()[:-10],
        "other": b"PK\x03\x04",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert main(["evaluate", str(tmp_path / name)]) == 1
        assert "is damaged or no safetensors file" in capsys.readouterr().err
    from tinygrad_cnn.train import save_state_dict_file

    save_state_dict_file(tmp_path / "plain", {"w": np.zeros(3)})
    assert main(["evaluate", str(tmp_path / "plain")]) == 1
    assert "does not say what network its weights are of" in capsys.readouterr().err
    note = networks.note("lenet5", 10, (1, 28, 28), data.Affine(0, 255))
    save_state_dict_file(tmp_path / "wrong", {"w": np.zeros(999)}, {"network": json.dumps(note)})
    assert main(["evaluate", str(tmp_path / "wrong")]) == 1
    assert "does not fit LeNet5" in capsys.readouterr().err
    for more in (
        {"image": [1, 10**6, 10**6]},
        {"classes": 10**9},
        {"image": [1, -28, 28]},
        {"zero": "x"},
        {"image": 7},
    ):
        text = json.dumps({**note, "model": "mlp", **more})
        save_state_dict_file(tmp_path / "gigantic", {"w": np.zeros(3)}, {"network": text})
        assert main(["evaluate", str(tmp_path / "gigantic")]) == 1
        assert "does not say what network its weights are of" in capsys.readouterr().err
    note["model"] = "os.system"
    save_state_dict_file(tmp_path / "evil", {"w": np.zeros(999)}, {"network": json.dumps(note)})
    assert main(["evaluate", str(tmp_path / "evil")]) == 1
    assert "'os.system' cannot be trained here" in capsys.readouterr().err


def picture(digit, size=(120, 160), paper=255, ink=0, mode="L"):
    """A test digit as a photo would have it: another size, on paper."""
    small = Image.fromarray(digit).resize((size[0] // 2, size[0] // 2), Image.Resampling.BICUBIC)
    share = np.zeros((size[1], size[0]))
    share[20 : 20 + size[0] // 2, 15 : 15 + size[0] // 2] = np.asarray(small) / 255
    levels = paper + share * (ink - paper)
    noise = np.random.default_rng(0).normal(0, 4, levels.shape)
    return Image.fromarray((levels + noise).clip(0, 255).astype(np.uint8)).convert(mode, dither=Image.Dither.NONE)


FORMS = {
    "black on white": {},
    "white on black": {"paper": 0, "ink": 255},
    "grey on grey": {"paper": 150, "ink": 60},
    "colour": {"mode": "RGB"},
    "palette": {"mode": "P"},
    "one bit": {"mode": "1"},
    "large": {"size": (700, 900)},
    "wide": {"size": (90, 300)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_digit_is_read_whatever_the_size_and_colour_of_the_image(form, run, tmp_path, capsys):
    _, test = data.mnist()
    chosen = [int(np.flatnonzero(test.labels == k)[2]) for k in range(10)]
    files = []
    for k, i in enumerate(chosen):
        files.append(str(tmp_path / f"{k}.png"))
        picture(test.images[i, 0], **FORMS[form]).save(files[-1])
    assert main(["predict", *files, "--model", str(run), "--json"]) == 0
    answers = [json.loads(line)["digit"] for line in capsys.readouterr().out.splitlines()]
    assert sum(a == k for k, a in enumerate(answers)) >= 8, answers


def test_transparent_is_white_and_sixteen_bits_are_read(tmp_path):
    digit = data.mnist().test.images[0, 0]
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[..., 3] = digit  # black ink on nothing
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert np.array_equal(read_grey(tmp_path / "clear.png"), 255 - digit.astype(np.float32))
    Image.fromarray(digit.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.allclose(read_grey(tmp_path / "deep.png"), digit)


def test_a_digit_of_the_networks_size_and_colours_is_taken_as_it_is():
    digit = data.mnist().test.images[3, 0]
    assert np.array_equal(as_digit(digit.astype(np.float32), (28, 28), "x"), digit)


def test_a_prepared_digit_is_20_pixels_high_with_its_centre_of_mass_in_the_middle():
    paper = np.full((200, 100), 240.0, np.float32)
    paper[30:130, 20:40] = 10
    digit = as_digit(paper, (28, 28), "x").astype(float)
    found = np.flatnonzero(digit.max(1))
    assert (found[0], found[-1]) == (4, 23)
    assert abs((digit.sum(1) * np.arange(28)).sum() / digit.sum() - 13.5) <= 0.5
    assert abs((digit.sum(0) * np.arange(28)).sum() / digit.sum() - 13.5) <= 0.5


def test_predict_prints_a_row_per_file_and_shows_what_the_network_sees(run, tmp_path, capsys):
    _, test = data.mnist()
    for i in range(2):
        Image.fromarray(test.images[i, 0]).save(tmp_path / f"{i}.png")
    words = ["predict", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--model", str(run)]
    assert main([*words, "--show"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"0\.png +7 +\d+\.\d\d %", printed)
    assert "█" in printed
    assert main([*words, "--as-is", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["digit"] == 7
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert next(iter(lines[0]["probabilities"])) == "7"


def test_what_is_no_digit_is_refused_with_the_name_of_the_file(run, tmp_path, capsys, monkeypatch):
    Image.new("L", (50, 40), 200).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("no image")
    picture(data.mnist().test.images[0, 0]).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    for name, message in (
        ("blank.png", "there is nothing to read"),
        ("text.png", "cannot be read as an image"),
        ("cut.png", "cannot be read as an image"),
        ("none.png", "there is no file"),
    ):
        assert main(["predict", str(tmp_path / name), "--model", str(run)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert name in error
    monkeypatch.setattr("tinygrad_cnn.cli.prediction._MOST_PIXELS", 100)
    with pytest.raises(DataError, match="too many for a digit"):
        read_grey(tmp_path / "blank.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["predict", str(tmp_path / "blank.png"), "--model", str(run)]) == 1
    assert "pip install 'tinygrad-cnn[plot]'" in capsys.readouterr().err


def test_summary_prints_layers_and_counts(run, capsys):
    for words in (["summary"], ["summary", "lenet5"], ["summary", str(run)]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert "conv1" in printed
        assert re.search("61.?706", printed)
    assert main(["summary", "lenet5", "--batch-size", "7"]) == 0
    assert re.search(r"7\D+6\D+28\D+28", capsys.readouterr().out)
    assert main(["summary", "lenet6"]) == 1
    assert "there is no model 'lenet6'" in capsys.readouterr().err


def test_info_names_versions_and_devices(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"NumPy          {np.__version__}" in printed
    assert re.search(r"^devices +cpu", printed, re.MULTILINE)
    assert re.search(r"^cupy-cuda13x +(not installed|\d)", printed, re.MULTILINE)
