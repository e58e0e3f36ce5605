"""The house's rules as tests: imports only fall, nothing unpickles, files and functions stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pronk"
FLOORS = {
    **dict.fromkeys(("errors", "disk"), 0),
    **dict.fromkeys(("models", "parallel", "text", "config"), 1),
    **dict.fromkeys(("data", "engine", "folders", "world"), 2),
    **dict.fromkeys(("learn", "rl", "tasks", "feedback"), 3),
    "evals": 4,
    "commands": 5,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FILE_SYSTEM = ("FileSystemReader", "FileSystemWriter")
files = pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(path: Path) -> str:
    """The part of the house that a file belongs to: models, data, … or the name of a file at the top."""
    inside = path.relative_to(SOURCE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, wherever in the file it does so."""
    package = ("pronk", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def climbs(path: Path) -> Iterator[str]:
    """What a file imports from a floor that is not below its own."""
    here = room(path)
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "pronk" or len(parts) < 2:
            continue
        there = parts[1] if parts[1] in FLOORS else "__init__"
        if there != here and FLOORS[there] >= FLOORS[here]:
            yield f"{path}:{line}: {here} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})"


def test_every_room_has_a_floor():
    assert {room(path) for path in SOURCE.rglob("*.py")} <= set(FLOORS)


@files
def test_imports_only_fall(path):
    if room(path) != "__init__":
        assert list(climbs(path)) == []


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("models/x.py", "import pronk.learn.track"),
        ("models/x.py", "def f():\n    from pronk.text import bpe"),
        ("rl/x.py", "from ..learn import fit"),
        ("rl/x.py", "from .. import learn"),
        ("rl/x.py", "from pronk import learn"),
        ("data/x.py", "from pronk import load"),
        ("evals/x.py", "from pronk.commands import demo"),
        ("config.py", "from .models import decoder"),
    ],
)
def test_the_rule_catches(tmp_path, monkeypatch, where, text):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert len(list(climbs(path))) == 1
    assert f"{path}:" in next(climbs(path))


def test_the_rule_allows_what_falls(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    path = tmp_path / "learn" / "x.py"
    path.parent.mkdir()
    path.write_text("from . import fit\nfrom .optim import muon\nfrom pronk.data.batch import Batch\nimport torch\n")
    assert list(climbs(path)) == []


@files
def test_opens_with_what_it_does(path):
    first = ast.get_docstring(tree(path))
    assert first and first.splitlines()[0].endswith("."), f"{path}:1: says in one sentence what it does"


@files
def test_stays_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{path}: {lines} lines"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]
    long = [f for f in functions if (f.end_lineno or 0) - f.lineno + 1 > LONGEST_FUNCTION]
    assert [f"{path}:{f.lineno}: {f.name}" for f in long] == []


def unpickles(path: Path) -> Iterator[str]:
    """Places where a file could run code that hides in data."""
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] in PICKLES or parts[-1] in FILE_SYSTEM or "distributed.checkpoint.filesystem" in name:
            yield f"{path}:{line}: {name} pickles"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in FILE_SYSTEM:
            yield f"{path}:{node.lineno}: {node.attr} pickles its metadata; use the HuggingFace storage classes"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if not safe:
                yield f"{path}:{node.lineno}: {ast.unparse(node.func)} pickles"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{path}:{node.value.lineno}: allow_pickle"


@files
def test_nothing_unpickles(path):
    assert list(unpickles(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from torch.distributed.checkpoint import FileSystemReader as R",
        "import torch.distributed.checkpoint as dcp\ndcp.FileSystemWriter('x')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_pickle_rule_catches(tmp_path, monkeypatch, text):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    (tmp_path / "x.py").write_text(text)
    assert list(unpickles(tmp_path / "x.py")) != []


def test_safe_loading_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    (tmp_path / "x.py").write_text("torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\n")
    assert list(unpickles(tmp_path / "x.py")) == []


def import_without(module: str, blocked: list[str]) -> None:
    """Imports a module in a fresh Python in which some others cannot be found."""
    code = f"import sys; sys.modules |= dict.fromkeys({blocked!r}); import {module}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def all_modules(folder: str) -> str:
    names = [path.stem for path in sorted((SOURCE / folder).glob("*.py"))]
    return ", ".join(f"pronk.{folder}" + ("" if name == "__init__" else f".{name}") for name in names)


def test_models_need_torch_alone():
    others = [
        "safetensors",
        "tokenizers",
        "jinja2",
        "tyro",
        "rich",
        "matplotlib",
        "tensorboard",
        "pyarrow",
        "zstandard",
    ]
    import_without(all_modules("models"), [*others, "transformers", "torch.distributed.checkpoint"])


def test_the_command_line_needs_no_torch():
    import_without("pronk.config, pronk.errors, pronk.commands, pronk.cli", ["torch", "numpy", "matplotlib"])


def test_importing_never_acts():
    """Importing every room prints nothing, and loads no heavy library that only some functions need."""
    rooms = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())
    heavy = "{'matplotlib', 'tensorboard', 'pyarrow', 'transformers', 'sentence_transformers', 'datasets'}"
    code = f"import sys, {', '.join(map(all_modules, rooms))}; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr[-2000:]
