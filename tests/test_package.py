"""The walls of the package: what is shipped, what an import loads, and who may import whom."""

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"inference", "datasets", "solvers"}  # the subpackages of statml that every family may use
HEAVY = {"torch", "pymc", "arviz", "pytensor", "matplotlib"}


# A family is a folder of statml/, and a folder or file of adapters/ (there often of the same name).
CORE = {path.parent.name for path in (ROOT / "statml").glob("*/__init__.py")} - SHARED
TORCH = {path.stem for path in (ROOT / "adapters").iterdir()}
FAMILIES = {name for name in CORE | TORCH if not name.startswith("_")}


def _module_name(path):
    """The import name of a source file: adapters/x.py is statml.adapters.x."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("statml", *parts) if parts[0] == "adapters" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources(wing):
    return {_module_name(path): path for path in sorted((ROOT / wing).rglob("*.py"))}


def _imports(name, path):
    """Every module that a source file imports, at its top or inside a function, by absolute name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join((above if node.level else []) + ([node.module] if node.module else []))
            # `from statml import graphs` imports statml.graphs, so the names count as well
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _family(module):
    """graphs for statml.graphs.x, pruning for statml.adapters.pruning.x, None for a shared room."""
    parts = [part for part in module.split(".") if part != "adapters"]
    return parts[1] if parts[0] == "statml" and len(parts) > 1 and parts[1] in FAMILIES else None


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The files in the wheel that is built from the sdist, as a user's pip would build it."""
    source = tmp_path_factory.mktemp("source")
    for wing in ("statml", "adapters"):
        shutil.copytree(ROOT / wing, source / wing, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    def build(kind, folder):
        code = f"import setuptools.build_meta as backend; backend.build_{kind}('dist')"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
        (built,) = (folder / "dist").iterdir()
        return built

    with tarfile.open(build("sdist", source)) as sdist:
        sdist.extractall(source / "unpacked", filter="data")
    (unpacked,) = (source / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked)) as wheel:
        return set(wheel.namelist())


@pytest.mark.parametrize("wing", ["statml", "adapters"])
def test_every_source_file_is_shipped(shipped, wing):
    prefix = "" if wing == "statml" else "statml/"
    sources = {prefix + path.relative_to(ROOT).as_posix() for path in (ROOT / wing).rglob("*.py")}
    assert sources <= shipped


def test_every_folder_of_sources_is_a_package():
    folders = {path.parent for wing in ("statml", "adapters") for path in _sources(wing).values()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_data_stubs_and_type_marker_are_shipped(shipped):
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "statml").rglob("data/*.csv")}
    weights = {
        "statml/" + path.relative_to(ROOT).as_posix()
        for path in (ROOT / "adapters").rglob("weights/*.safetensors")
    }
    stubs = {
        f"{prefix}{path.relative_to(ROOT).as_posix()}"
        for wing, prefix in (("statml", ""), ("adapters", "statml/"))
        for path in (ROOT / wing).rglob("*.pyi")
    }
    assert data | weights | stubs | {"statml/py.typed"} <= shipped


def test_no_top_level_name_but_statml_is_installed(shipped):
    top = {name.split("/")[0] for name in shipped if ".dist-info/" not in name}
    assert top == {"statml"}
    # the installation that runs these tests, which may be an editable one
    installed = importlib.metadata.distribution("statml").read_text("top_level.txt")
    assert installed.split() == ["statml"]


@pytest.mark.parametrize(
    "modules", ["statml", "statml.graphs, statml.datasets, statml.inference", "statml.adapters"]
)
def test_import_is_light(modules):
    code = f"import sys, {modules}; print(*{HEAVY!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


def test_statml_imports_neither_torch_nor_its_adapters():
    forbidden = [
        f"{name} imports {imported}"
        for name, path in _sources("statml").items()
        for imported in _imports(name, path)
        if imported.split(".")[0] in {"torch", "skorch"} or imported.startswith("statml.adapters")
    ]
    assert forbidden == []


def test_no_family_imports_another():
    crossings = [
        f"{name} imports {imported}"
        for name, path in (_sources("statml") | _sources("adapters")).items()
        for imported in _imports(name, path)
        if _family(name) and _family(imported) not in {None, _family(name)}
    ]
    assert crossings == []
