"""Every example in the README and in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import tinygrad_cnn
from tinygrad_cnn.op import TABLE


@pytest.fixture(autouse=True)
def _ops_of_examples_go_again():
    """Examples may register ops of their own; the table is put back as it was."""
    before = dict(TABLE)
    yield
    TABLE.clear()
    TABLE.update(before)


ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"


def modules() -> list[str]:
    found = [tinygrad_cnn.__name__]
    for info in pkgutil.walk_packages(tinygrad_cnn.__path__, "tinygrad_cnn."):
        if not any(part in info.name for part in (".sheets", "__main__", ".cuda", ".cupy_", ".bench")):
            found.append(info.name)
    return found


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def blocks(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks(README))))
def test_readme_examples_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(README)[number]
    if ">>>" in code:
        parsed = doctest.DocTestParser().get_doctest(code, {}, f"README block {number}", str(README), 0)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        assert runner.run(parsed).failed == 0
    else:
        exec(compile(code, f"README block {number}", "exec"), {"__name__": "readme"})


def test_the_readme_has_examples_to_run():
    assert len(blocks(README)) >= 5


@pytest.mark.skipif(
    not CONTRIBUTING.is_file(), reason="the notes for contributors are not part of an installed package"
)
def test_the_worked_example_for_contributors_runs():
    namespace: dict[str, object] = {"__name__": "contributing"}
    code = blocks(CONTRIBUTING)
    assert code
    for block in code:
        exec(compile(block, "CONTRIBUTING", "exec"), namespace)
