"""The floor plan, enforced: who may import whom, and where heavy stacks may be loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "block": set(),
    "length_estimation": {"block"},
    "vidur_adapter": {"block"},
    "predictor": {"block", "length_estimation", "vidur_adapter"},
    "global_scheduler": {"block", "length_estimation"},
    "deploy": {"block", "length_estimation", "vidur_adapter", "predictor", "global_scheduler"},
    "exp": {"block", "length_estimation", "vidur_adapter", "predictor", "global_scheduler", "deploy"},
}

AT_ALL = {
    "vllm": ("block/vllm_plugin/", "exp/"),
    "torch": ("block/vllm_plugin/", "exp/", "length_estimation/"),
}
"""Stack -> where it may be imported, be it inside a function."""

DRIVES_VLLM = ("exp/virtual_engine.py", "exp/feed_cost.py", "exp/judge.py", "exp/emulation_cost.py")
"""Programs about vLLM's own classes; nothing else imports them at its top level."""

ENCODER = (
    "length_estimation/encoder.py",
    "length_estimation/roberta_training.py",
    "length_estimation/training_checkpoint.py",
)
"""The network behind the roberta estimator; nothing imports them at its top level."""

AT_TOP_LEVEL = {
    "vllm": ("block/vllm_plugin/", *DRIVES_VLLM),
    "torch": ("block/vllm_plugin/", *DRIVES_VLLM, *ENCODER),
    "transformers": ENCODER,
    "sklearn": (),
    "numba": ("block/simulation/",),
}
"""Stack -> where it may be imported whenever the module is."""


@dataclass(frozen=True)
class Import:
    path: str
    module: str
    top_level: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def imports_of(source: str, path: str) -> Iterator[Import]:
    yield from _walk(ast.parse(source), path, top_level=True)


def _walk(node: ast.AST, path: str, *, top_level: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (Import(path, i.module, False) for i in _walk(child, path, top_level=False))
        elif isinstance(child, ast.Import):
            yield from (Import(path, alias.name, top_level) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}: relative import; write the package out"
            yield Import(path, child.module or "", top_level)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _walk(child, path, top_level=top_level and not is_function)


def project_imports() -> list[Import]:
    found = []
    for package in MAY_IMPORT:
        for file in sorted((ROOT / package).rglob("*.py")):
            found += imports_of(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())
    return found


def upward(imports: list[Import]) -> list[Import]:
    """Imports of our packages that the floor plan does not allow."""
    wrong = []
    for each in imports:
        home = each.path.partition("/")[0]
        if each.package in MAY_IMPORT and each.package not in MAY_IMPORT[home] | {home}:
            wrong.append(each)
    return wrong


def misplaced(imports: list[Import]) -> list[Import]:
    """Imports of heavy stacks where they are not allowed."""
    wrong = []
    for each in imports:
        allowed = AT_TOP_LEVEL.get(each.package) if each.top_level else AT_ALL.get(each.package)
        if allowed is not None and not each.path.startswith(allowed):
            wrong.append(each)
    return wrong


def test_imports_go_downward_only() -> None:
    assert upward(project_imports()) == []


def test_heavy_stacks_are_imported_only_where_they_are_needed() -> None:
    assert misplaced(project_imports()) == []


def command_lines() -> list[str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    modules = [target.partition(":")[0] for target in scripts.values()]
    return [module for module in modules if (ROOT / f"{module.replace('.', '/')}.py").exists()]


@pytest.mark.parametrize("module", command_lines())
def test_a_command_line_starts_without_heavy_stacks(module: str) -> None:
    heavy = {"vllm", "torch", "transformers", "sklearn", "onnxruntime"}
    code = f"import {module}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_nothing_imports_the_tests() -> None:
    assert [each for each in project_imports() if each.package == "tests"] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("block/types.py", "import deploy.plan"),
        ("block/types.py", "def f():\n    from predictor import mirror"),
        ("deploy/plan.py", "from exp.client import LoadClient"),
        ("global_scheduler/app.py", "if True:\n    import predictor"),
    ],
)
def test_an_upward_import_is_found(path: str, source: str) -> None:
    assert upward(list(imports_of(source, path)))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("predictor/app.py", "def f():\n    import vllm"),
        ("predictor/app.py", "import numba"),
        ("exp/local_model.py", "from transformers import AutoConfig"),
        ("exp/local_model.py", "try:\n    import torch\nexcept ImportError:\n    raise"),
    ],
)
def test_a_misplaced_heavy_import_is_found(path: str, source: str) -> None:
    assert misplaced(list(imports_of(source, path)))


def test_a_heavy_import_inside_a_function_is_allowed_in_experiments() -> None:
    assert not misplaced(list(imports_of("def f():\n    import torch", "exp/local_model.py")))


def test_every_package_is_declared_and_every_declared_package_is_there() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert declared == present


def test_our_package_names_hide_no_standard_module() -> None:
    assert not set(MAY_IMPORT) & sys.stdlib_module_names
