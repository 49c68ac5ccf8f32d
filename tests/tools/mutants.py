"""Mutation trial: break the sources at random places, and see whether the quick tests notice.

    make mutants                                             # 100 mutants, seed 0; fewer: make mutants MUTANTS=10
    .venv/bin/python tests/tools/mutants.py --seed 1 --only 17    # one of them again, with its difference

A mutant is one small change: another operator, comparison or constant, a negated condition, two exchanged arguments, or
a missing statement. It is made in a copy of the working tree. The tests of its room run first, then, if it is still
alive, all quick tests that reach the sources. A survivor shows a missing test, or behaves like the original.
"""

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from multiprocessing import get_context
from pathlib import Path

import lightning  # noqa: F401 (it and torch are imported once, not for each mutant)
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src/focaldet")
LIMIT_S = 900
"""Longest run of the tests, in seconds: a mutant that takes longer counts as killed."""

ROOMS = {
    "losses": ["tests/losses", "tests/test_losses_hold.py", "tests/test_losses_oddly_called.py", "tests/kernels"],
    "functional/operators": ["tests/losses", "tests/kernels", "tests/test_losses_oddly_called.py"],
    "assign": ["tests/assign", "tests/methods"],
    "boxes": ["tests/boxes", "tests/assign", "tests/methods", "tests/models/test_postprocess.py"],
    "methods": ["tests/methods", "tests/engine/test_step_counts.py", "tests/engine/test_batches.py"],
    "models/postprocess.py": ["tests/models", "tests/engine/test_batches.py", "tests/exporting"],
}
"""Sources to break -> tests that probably notice."""

REST = ["tests/losses", "tests/kernels", "tests/assign", "tests/boxes", "tests/methods", "tests/models", "tests/engine"]
REST += ["tests/exporting", "tests/study", "tests/importing", "tests/test_functional.py", "tests/test_docs_losses.py"]
REST += ["tests/test_losses_hold.py", "tests/test_losses_oddly_called.py", "tests/test_losses_transformed.py"]
"""The other quick tests that reach these sources."""

OPERATORS = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.FloorDiv: ast.Div, ast.Pow: ast.Mult, ast.Mod: ast.Mult}
OPERATORS |= {ast.BitAnd: ast.BitOr, ast.And: ast.Or, ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq}
OPERATORS |= {ast.Is: ast.IsNot, ast.In: ast.NotIn}
OPERATORS |= {new: old for old, new in OPERATORS.items() if new not in OPERATORS}
NAMES = {"min": "max", "amin": "amax", "floor": "ceil", "any": "all", "sum": "mean", "argmin": "argmax"}
NAMES |= {new: old for old, new in NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    path: Path
    sound: bytes
    broken: bytes

    def __str__(self) -> str:
        lines = [source.decode().splitlines() for source in (self.sound, self.broken)]
        return "\n".join(unified_diff(*lines, fromfile=str(self.path), tofile="mutant", n=1, lineterm=""))


def replaced(source: bytes, node: ast.AST, new: str) -> bytes:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return source[:begin] + new.encode() + source[end:]


def changes(node: ast.AST) -> Iterator[str]:
    """Code that can replace a node."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right)).join("()")
        case ast.BoolOp(op, values):
            yield ast.unparse(ast.BoolOp(OPERATORS[type(op)](), values)).join("()")
        case ast.Compare(left, [op, *others], right) if type(op) in OPERATORS:
            yield ast.unparse(ast.Compare(left, [OPERATORS[type(op)](), *others], right)).join("()")
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield ast.unparse(operand).join("()")
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value)):
            yield str(value + 1)
        case ast.Constant(float(value)):
            yield str(2 * value if value else 1.0)
        case ast.Call(func, [*first, a, b], keywords):
            yield ast.unparse(ast.Call(func, [*first, b, a], keywords))
        case ast.Call(ast.Attribute(value, name), args, keywords) if name in NAMES:
            yield ast.unparse(ast.Call(ast.Attribute(value, NAMES[name]), args, keywords))
        case ast.Call(ast.Name(name), args, keywords) if name in NAMES:
            yield ast.unparse(ast.Call(ast.Name(NAMES[name]), args, keywords))
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "pass"


def conditions(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.If(test) | ast.IfExp(test=test) | ast.While(test):
            yield test
        case ast.comprehension(ifs=tests):
            yield from tests


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a source, except in annotations, messages and decorators."""
    sound = (ROOT / path).read_bytes()

    def visit(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr):
            return
        for new in changes(node):
            yield Mutant(path, sound, replaced(sound, node, new))
        for test in conditions(node):
            yield Mutant(path, sound, replaced(sound, test, f"(not ({ast.unparse(test)}))"))
        if isinstance(node, ast.Raise):
            return
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from visit(child)

    yield from visit(ast.parse(sound))


def tests_of(path: Path) -> list[str]:
    room = next(room for room in ROOMS if (PACKAGE / room) in (path, *path.parents))
    return [*ROOMS[room], str(path)]  # the file's own doctests too


def tests_fail(copy: Path, tests: list[str]) -> bool:
    process = get_context("fork").Process(target=run_tests, args=(copy, tests))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode != 0


def run_tests(copy: Path, tests: list[str]) -> None:
    """Runs tests in a separate process in which torch is already imported."""
    os.chdir(copy)
    sys.path[:0] = [str(copy / "src"), str(copy / "tests")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path[:2]), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # Python would not notice a change of the same length within a second
    with log_of(copy).open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(pytest.main(["-q", "-x", "-m", "not slow", *tests]))


def log_of(copy: Path) -> Path:
    """The output of the last tests."""
    return copy.with_name("log.txt")


def is_killed(mutant: Mutant, copy: Path) -> bool:
    (copy / mutant.path).write_bytes(mutant.broken)
    try:
        return any(tests_fail(copy, tests) for tests in (tests_of(mutant.path), REST))
    finally:
        (copy / mutant.path).write_bytes(mutant.sound)


def drawn(seed: int, count: int) -> list[Mutant]:
    paths = [file.relative_to(ROOT) for file in sorted((ROOT / PACKAGE).rglob("*.py"))]
    rooms = [PACKAGE / room for room in ROOMS]
    mutants = [
        mutant for path in paths if any(room in (path, *path.parents) for room in rooms) for mutant in mutants_of(path)
    ]
    print(f"{count} of {len(mutants)} mutants, seed {seed}")
    return random.Random(seed).sample(mutants, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants, to try these again")
    args = parser.parse_args()
    numbered = list(enumerate(drawn(args.seed, args.count)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache"))
        if (photos := ROOT.parent / "shared").is_dir():  # real photos, which the tests expect next to the repository
            copy.with_name("shared").symlink_to(photos)
        if tests_fail(copy, REST):
            sys.exit(f"{log_of(copy).read_text()[-3000:]}\nthe quick tests fail already without a mutant")
        alive = []
        for number, mutant in numbered:
            if args.only is None or number in args.only:
                killed = is_killed(mutant, copy)
                print(f"\n{number}: {'killed' if killed else 'ALIVE'}\n{mutant}", flush=True)
                alive += [] if killed else [number]
    tried = len(numbered) if args.only is None else len(args.only)
    print(f"\n{tried - len(alive)} of {tried} mutants killed; alive: {alive or 'none'}")


if __name__ == "__main__":
    main()
