"""Run a notebook without Jupyter: ``python tests/tools/notebook.py docs/examples/python.ipynb`` stores its outputs.

The cells are plain Python. Stored outputs are the printed text of each cell, and the value of its last line if that is
an expression: as a PNG if the value draws itself, else as its repr.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run_notebook(file: Path, changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Execute the cells in order. Returns the notebook with their outputs.

    Args:
        changes: text in the cells -> replacement to run.
    """
    notebook: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), start=1):
        source = "".join(cell["source"])
        for before, after in (changes or {}).items():
            source = source.replace(before, after)
        cell["execution_count"], cell["outputs"] = count, run_cell(source, names)
    return notebook


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute a cell. Returns its outputs in the notebook's format."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return outputs


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    finished = run_notebook(Path(name))
    Path(name).write_text(json.dumps(finished, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
