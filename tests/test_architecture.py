"""The shape of the project: what may import what, what is packaged, and which names are public."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tinygrad_cnn"

# Each layer may import the layers named beside it (and itself), in functions as well as at the top of a file.
_CORE = {"errors", "files", "backend", "graph", "op", "autodiff", "ops", "tensor"}
_NETWORKS = _CORE | {"nn", "optim", "data", "models"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "backend": {"errors"},
    "graph": set(),
    "op": {"backend", "graph", "errors"},
    "anomaly": {"graph", "backend", "errors"},
    "profiler": {"graph", "backend", "errors"},
    "autodiff": {"graph", "op", "backend", "errors"},
    "ops": {"op", "graph", "backend", "errors"},
    "tensor": {"ops", "op", "autodiff", "graph", "backend", "errors"},
    "amp": {"ops", "graph", "backend", "errors"},
    "nn": _CORE,
    "optim": {"nn", "tensor", "graph", "backend", "errors"},
    "data": {"backend", "errors"},
    "models": _CORE | {"nn"},
    "train": _NETWORKS | {"amp", "captured"},
    "captured": _CORE | {"nn", "optim"},
    "gradcheck": _NETWORKS | {"train"},
    "exercises": _NETWORKS | {"train", "gradcheck"},
}
# The command and the benchmarks stand on top of everything; the package's own __init__ offers what is below.
ON_TOP = {"cli", "bench", "__main__", "__init__"}
# The picture of a graph needs the graph alone; pictures of a network at work use the network.
VIZ_GRAPH = {"errors", "files", "graph"}
VIZ_AT_WORK = _NETWORKS | {"train", "graph"}


def layer_of(path: Path) -> str:
    if ROOT / "viz" in path.parents:
        return "viz"
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[tuple[str, int]]:
    """Return (layer, line) for every import of a part of this project, wherever in the file it stands."""
    if ROOT / "viz" in path.parents:
        package = ("tinygrad_cnn", "viz", *path.relative_to(ROOT / "viz").parts[:-1])
    else:
        package = ("tinygrad_cnn", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            names = [module] if len(module) > 1 else [(*module, alias.name) for alias in node.names]
        for name in names:
            if name[0] == "tinygrad_cnn" and len(name) > 1:
                found.add((name[1], node.lineno))
    return found


def sources() -> list[Path]:
    return [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "viz").rglob("*.py"))]


def test_imports_point_downwards_only():
    wrong = []
    for path in sources():
        layer = layer_of(path)
        if layer in ON_TOP or "sheets" in path.parts:
            continue
        if layer == "viz":
            continue
        assert layer in ALLOWED, f"{path.relative_to(ROOT)} belongs to no layer of the table"
        allowed = ALLOWED[layer] | {layer}
        lazily_shown = {("tensor", "viz"), ("nn", "viz")}  # the hooks by which a notebook shows a tensor or a module
        for name, line in sorted(imported_layers(path)):
            if name not in allowed and (layer, name) not in lazily_shown:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_picture_of_a_graph_reads_only_the_graph():
    wrong = []
    for path in sorted((ROOT / "viz").rglob("*.py")):
        at_work = "atwork" in path.as_posix() or "at_work" in path.as_posix()
        allowed = (VIZ_AT_WORK if at_work else VIZ_GRAPH) | {"viz"}
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {name}"
            for name, line in sorted(imported_layers(path))
            if name not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_every_layer_of_the_table_that_exists_is_a_file_or_folder():
    for layer in ("errors", "backend", "graph", "op", "autodiff", "ops", "tensor", "nn", "optim", "data", "models"):
        assert (PACKAGE / layer).is_dir() or (PACKAGE / f"{layer}.py").is_file()


def test_ops_and_everything_above_name_no_array_library():
    wrong = []
    for path in [*sorted((PACKAGE / "ops").rglob("*.py")), PACKAGE / "autodiff.py", PACKAGE / "op.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [f"{path.name}: {n}" for n in names if n.split(".")[0] in ("numpy", "cupy", "cupyx")]
    assert not wrong, wrong


def test_nothing_is_ever_unpickled():
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                wrong += [
                    f"{path.name}: {n}"
                    for n in names
                    if n.split(".")[0] in ("pickle", "dill", "cloudpickle", "marshal")
                ]
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
    assert not wrong, wrong


def test_the_top_level_holds_nothing_but_what_is_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    agreed = {"pyproject.toml", "README.md", "tinygrad_cnn", "tests", "examples", "viz", "LICENSE", ".ci"}
    assert {name for name in top - agreed if not name.startswith(".")} == set()


def test_every_package_folder_is_listed_for_installation():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        ".".join(("tinygrad_cnn", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")
    }
    folders |= {
        ".".join(("tinygrad_cnn", "viz", *path.parent.relative_to(ROOT / "viz").parts))
        for path in (ROOT / "viz").rglob("__init__.py")
    }
    assert set(settings["packages"]) == folders


def test_every_data_file_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]
    missing = []
    for folder, name in ((PACKAGE, "tinygrad_cnn"), (ROOT / "viz", "tinygrad_cnn.viz")):
        for path in folder.rglob("*"):
            if path.is_dir() or "__pycache__" in path.parts or path.suffix in (".py", ".pyc"):
                continue
            owner = path.parent
            while not (owner / "__init__.py").is_file():
                owner = owner.parent
            package = ".".join((name, *owner.relative_to(folder).parts))
            relative = path.relative_to(owner)
            if not any(relative.match(p) for p in patterns.get(package, [])):
                missing.append(f"{package}: {relative}")
    assert not missing, missing


PUBLIC = {
    *(
        "Device",
        "Tensor",
        "arange",
        "autodiff",
        "data",
        "enable_grad",
        "errors",
        "exercises",
        "eye",
        "float16",
        "float32",
    ),
    *("float64", "from_dlpack", "full", "grad", "gradcheck", "manual_seed", "models", "nn", "no_grad", "ones", "ops"),
    *("optim", "rand", "randn", "tensor", "train", "use_device", "viz", "zeros"),
}


def test_the_public_names_are_pinned():
    import tinygrad_cnn

    known = {name for name in tinygrad_cnn.__all__ if not name.startswith("_")}
    assert known >= PUBLIC
    assert known - PUBLIC <= {"amp", "compile", "detect_anomaly", "profile"}
    for name in tinygrad_cnn.__all__:
        assert getattr(tinygrad_cnn, name) is not None


def imported_after_numpy(statement: str) -> set[str]:
    """Return the modules that a statement loads in a fresh process that has loaded NumPy."""
    code = f"import sys, numpy; before = {{*sys.modules}}; {statement}; print(*sorted({{*sys.modules}} - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_no_heavy_or_optional_library():
    heavy = "matplotlib graphviz rich PIL cupy cudnn torch numpy.random json hashlib secrets subprocess multiprocessing"
    parts = "viz nn optim data models train captured profiler anomaly amp backend.numpy_kernels backend.threads"
    unwanted = {*heavy.split(), *(f"tinygrad_cnn.{part}" for part in parts.split())}
    assert imported_after_numpy("import tinygrad_cnn") & unwanted == set()


def test_networks_are_imported_without_random_numbers_and_without_kernels():
    unwanted = {"numpy.random", "hashlib", "subprocess", "multiprocessing", "tinygrad_cnn.backend.numpy_kernels"}
    assert imported_after_numpy("import tinygrad_cnn.models, tinygrad_cnn.optim") & unwanted == set()
