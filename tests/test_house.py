"""The floors of the house: which folder of the package may import which, read from the source without running it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import focaldet
from focaldet.boxes.iou import pairwise_iou
from focaldet.structures import Assignment
from shapes import MODULES, UNCHECKED

PACKAGE = Path(focaldet.__file__).parent

FLOORS = (
    {"structures", "checks"},
    {"boxes", "files", "photos", "schema", "system"},
    {"losses", "kernels", "assign", "records", "folders", "scratch"},
    {"runtime"},
    {"evaluation", "functional"},
    {"models", "data"},
    {"methods"},
    {"engine"},
    {"exporting", "importing", "study", "report", "bench", "options", "terminal", "serve"},
    {"commands", "command_options"},
    {"cli", "run"},
    {"__main__"},
)
"""From the ground up. Folders on one floor do not know each other."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def folder_of(path: Path) -> str:
    """The first name below the package: ``losses`` for losses/focal.py, ``checks`` for checks.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_folders(source: str, folder: str) -> list[str]:
    """Folders of the package that a source of ``folder`` imports, at its top or inside a function."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # relative: its own folder, or from "..": the package itself
                base = "focaldet" + (f".{folder}" if node.level == 1 else "")
                base += f".{node.module}" if node.module else ""
            else:
                base = node.module or ""
            modules += [f"{base}.{alias.name}" for alias in node.names]
    found = [module.split(".")[1] for module in modules if module.startswith("focaldet.")]
    return [name for name in found if name != "__version__"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_floors_and_its_own_folder(path):
    folder = folder_of(path)
    assert folder in FLOOR, f"{folder}: give it a floor in this test and in the design"
    for imported in imported_folders(path.read_text(encoding="utf-8"), folder):
        assert imported in FLOOR, f"{path.name} imports focaldet.{imported}, which has no floor"
        if imported != folder:
            assert FLOOR[imported] < FLOOR[folder], f"{path.name} (floor {FLOOR[folder]}) imports {imported}"


def test_no_file_is_longer_than_what_a_person_reads_at_once():
    """400 lines; 150 for a method, which is read next to its paper."""
    lengths = {path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    most = {path: 150 if path.parts[0] == "methods" else 400 for path in lengths}
    assert {str(path): lines for path, lines in lengths.items() if lines > most[path]} == {}


@pytest.mark.parametrize(
    ("source", "folders"),
    [
        ("from focaldet.losses.focal import x", ["losses"]),
        ("from focaldet import kernels, functional", ["kernels", "functional"]),
        ("from focaldet import __version__", []),
        ("import focaldet.engine.train as t", ["engine"]),
        ("def f():\n    from focaldet import cli", ["cli"]),
        ("from . import iou\nfrom .iou import x\nfrom ..cli import main", ["boxes", "boxes", "cli"]),
        ("import torch\nfrom torch.nn import functional", []),
    ],
)
def test_every_form_of_import_is_seen(source, folders):
    assert imported_folders(source, "boxes") == folders


def test_package_itself_imports_nothing_of_its_own_eagerly():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert imported_folders(source, "") == []


@pytest.mark.parametrize("name", [name for name in focaldet.__all__ if name != "__version__"])
def test_public_name_resolves_and_is_documented(name):
    value = getattr(focaldet, name)
    assert name in dir(focaldet)
    if isinstance(value, int):  # BACKGROUND and IGNORED: a literal has its docstring below it in the source
        source = Path(PACKAGE / "structures.py").read_text(encoding="utf-8")
        assert f'\n{name} = {value}\n"""' in source
    else:
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "the docstring that dataclass makes by itself"


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sigmoid_focal_los'"):
        _ = focaldet.sigmoid_focal_los


def test_what_runs_an_exported_model_is_imported_without_torch():
    """docs/adr/0008: the rooms whole, and what leads to them and to the page of errors."""
    torchless = {
        "checks",
        "files",
        "folders",
        "options",
        "terminal",
        "photos",
        "records",
        "evaluation",
        "runtime",
        "serve",
    }
    paths = [
        path for path in SOURCES if folder_of(path) in {*torchless, "commands", "command_options", "cli", "__main__"}
    ]
    paths += [PACKAGE / "engine" / "load.py", PACKAGE / "engine" / "compare.py", PACKAGE / "report" / "errors.py"]
    modules = [".".join(("focaldet", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in paths]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        f"for name in {modules}: __import__(name.removesuffix('.__init__'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_tests_check_shapes_of_arguments_results_and_dataclasses():
    boxes = torch.zeros(3, 4)
    assert pairwise_iou(boxes, boxes).shape == (3, 3)
    with pytest.raises(TypeCheckError, match="other_xyxy"):
        pairwise_iou(boxes, torch.zeros(3, 5))
    with pytest.raises(TypeCheckError, match="matched_gt"):
        Assignment(torch.zeros(2, 3))  # not int64


def test_every_module_that_states_shapes_is_checked():
    stating = [path for path in SOURCES if "from jaxtyping import" in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in stating]
    checked = (*MODULES, *UNCHECKED)
    assert [name for name in names if not any(f"{name}.".startswith(f"{module}.") for module in checked)] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_pages_about_the_house_name_files_that_exist(page):
    root = PACKAGE.parents[1]
    named = re.findall(r"`([\w./]+/[\w./]*)`", (root / page).read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not any((base / name).exists() for base in (root, PACKAGE))] == []


def test_no_file_or_folder_is_named_after_nothing():
    stems = {path.stem for path in PACKAGE.rglob("*")}
    assert not stems & {"utils", "misc", "common", "core", "helpers", "legacy"}


TRANSLATED = "|".join(
    (
        r"\bof which\b|\bas it stands\b|\bas they are\b|\bwhatever stands\b|\banew\b|\bto the bit\b|\bis not there\b",
        r"\b(is|are|be) told\b|\blook(s|ed|ing)? at\b|\bgiv(e|es|en|ing) back\b|\bcannot be had\b",
        r"\bsurer\b|\bwith so many\b|\bin work\b|\bprocess of its own\b|\bbeside (the|it|its|them|a|each|their)\b",
        r"\b(one|line|bits|photos|bins|steps) a (line|box|photo|channel|side|step)\b",
        r'"""(Of|What) |"""The same (of|with|as)\b',
    )
)


def test_no_source_has_a_phrase_that_reads_like_a_translation():
    """The ones that came back most often; CONTRIBUTING.md: it reads aloud."""
    texts = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in SOURCES}
    found = {str(path): re.search(TRANSLATED, text) for path, text in texts.items()}
    assert {path: match.group() for path, match in found.items() if match} == {}


def test_every_module_has_a_docstring():
    bare = [p.name for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert bare == []
