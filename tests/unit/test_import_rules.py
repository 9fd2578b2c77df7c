"""Packages import from one another only what a door names; the doors are the ``__init__.pyi``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import distviz

ROOT = Path(distviz.__file__).parent
MODULES = [path for path in ROOT.rglob("*.py") if "demo" not in path.parts]
PACKAGES = sorted({".".join(path.parent.relative_to(ROOT).parts) for path in MODULES} - {""})


@cache
def package_of(module: str) -> str:
    """The package that a module stands in, without ``distviz.``; empty at the top."""
    inside = [name for name in PACKAGES if f"{module}.".startswith(f"{name}.")]
    return max(inside, key=len, default="")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every ``from distviz.MODULE import NAME`` of a file, however deep it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distviz."):
            for alias in node.names:
                yield str(node.module).removeprefix("distviz."), alias.name
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("distviz.") for alias in node.names), path


@cache
def names_of(package: str) -> set[str]:
    """What the door of a package names."""
    door = ROOT.joinpath(*package.split("."), "__init__.py")
    stub = door.with_suffix(".pyi")
    tree = ast.parse((stub if stub.exists() else door).read_text("utf-8"))
    found = {
        a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    return found | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def entered(path: Path) -> Iterator[tuple[str, str]]:
    """What a file imports of packages that it does not stand in."""
    own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module, name in imports(path):
        package = package_of(module)
        if (
            package
            and not f"{own}.".startswith(f"{package}.")
            and not package.startswith(f"{own}.")
        ):
            yield module, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_other_packages_are_entered_by_their_doors(path: Path) -> None:
    for module, name in entered(path):
        assert module in PACKAGES, f"{path}: {module} is inside {package_of(module)}"
        assert name in names_of(module) or f"{module}.{name}" in PACKAGES, (
            f"{path}: the door of {module} does not name {name}"
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_door_names_what_a_module_hides(package: str) -> None:
    """Loading ``hooks/attach.py`` would replace a function ``attach`` of another module."""
    folder = ROOT.joinpath(*package.split("."))
    stub = folder / "__init__.pyi"
    for node in ast.parse(stub.read_text("utf-8") if stub.exists() else "").body:
        if isinstance(node, ast.ImportFrom) and node.module:
            others = {path.stem for path in folder.iterdir()} - {node.module}
            assert not others & {alias.name for alias in node.names}, f"{package}: {node.module}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is_for(package: str) -> None:
    door = ROOT.joinpath(*package.split("."), "__init__.py")
    said = ast.get_docstring(ast.parse(door.read_text("utf-8"))) or ""
    assert said.split("\n")[0].endswith((".", ";")), package


def test_the_rule_catches_what_it_forbids(tmp_path: Path) -> None:
    assert ("stats.mse_scale", "x") in set(
        imports(_written(tmp_path, "from distviz.stats.mse_scale import x"))
    )
    assert package_of("stats.mse_scale") == "stats"
    assert "x" not in names_of("stats")
    assert {"Sketch", "describe", "infer"} <= names_of("stats")


def _written(folder: Path, line: str) -> Path:
    path = folder / "m.py"
    path.write_text(f"def f():\n    {line}\n")
    return path
