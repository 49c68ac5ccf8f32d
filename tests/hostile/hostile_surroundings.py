"""Commands in strange surroundings: environment, streams, limits and folders, each in a separate process."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ENVIRONMENTS: tuple[dict[str, str | None], ...] = (
    {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"HOME": None, "USER": None, "LOGNAME": None},
    {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null"},
    {"TMPDIR": "/dev/null/x", "TEMP": "/dev/null", "TMP": ""},
    {"COLUMNS": "-3", "LINES": "x"},
    {"COLUMNS": "0", "TERM": ""},
    {"COLUMNS": "99999999999999999999"},
    {"LOCAL_RANK": "x"},
    {"NODE_RANK": "-1", "RANK": "9" * 50},
    {"SLURM_PROCID": "\u0663"},
    {"CUDA_VISIBLE_DEVICES": "x,-7", "HIP_VISIBLE_DEVICES": "x"},
    {"PYTHONDEVMODE": "1"},
    {"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "2"},
    {"http_proxy": "http://127.0.0.1:1", "HF_HOME": "/dev/null"},
)
"""Environment variables to set; ``None``: to unset."""

STREAMS = (
    "",
    "<&-",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    "</dev/full",
)


def _read_only(work: Path) -> None:
    for folder in (work / "given", *(work / "given").rglob("*")):
        if folder.is_dir():
            folder.chmod(0o500)


def _working_folder_is_gone(work: Path) -> None:
    (work / "gone").mkdir()
    os.chdir(work / "gone")
    (work / "gone").rmdir()


def _nothing(work: Path) -> None:
    pass


def _no_rights_for_new_files(work: Path) -> None:
    os.umask(0o777)


def _files_of_a_kilobyte(work: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def _interrupts_ignored(work: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _broken_pipes_deadly(work: Path) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


PLACES: tuple[Callable[[Path], None], ...] = (
    _nothing,
    _no_rights_for_new_files,
    _files_of_a_kilobyte,
    _interrupts_ignored,
    _broken_pipes_deadly,
    _working_folder_is_gone,
    _read_only,
)
"""Actions in the process before the command starts."""

WAITING = 170
"""Wall-clock seconds for a command, fewer than the fuzzer's limit for a case."""

NAMES = (
    "out",
    "\udcff\udcfe",
    "a\nb",
    "c\x1b[31md",
    "e" * 255,
    "\u00e4" * 120,
    "-",
    "f'\"g",
    "$(h)",
    "i;j",
    "\u202ek",
    "%s%n",
)


def surroundings(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """Valid arguments, below a folder with a strange name."""
    folder = work / "given" / rng.choice(NAMES)
    out = work / "out" / rng.choice(NAMES)
    kind = rng.choice(("data", "data", "data", "predict", "predict", "predict", "report", "study", "help", "train"))
    source = {"data": "coco", "predict": "model.onnx", "report": "run", "study": "study"}.get(kind)
    if source is not None:
        copy = shutil.copytree if (samples / source).is_dir() else shutil.copy
        copy(samples / source, folder)
    (work / "given" / "photo.png").write_bytes((samples / "photo.png").read_bytes())
    arguments: dict[str, list[object]] = {
        "data": ["data", "check", folder],
        "predict": ["predict", folder, work / "given" / "photo.png", "--out", out],
        "report": ["report", folder, "--out", work / "out" / "page.html"],
        "study": ["study", "--out", folder, "--table"],
        "help": [rng.choice(("train", "predict", "study")), "--help"],
        "train": ["train", "--data", work / "nowhere", "--out", out],
    }
    if kind == "predict" and folder.suffix != ".onnx":
        renamed = Path(f"{folder}"[:-5] + ".onnx" if len(folder.name) > 250 else f"{folder}.onnx")
        folder.rename(renamed)
        arguments["predict"][1] = renamed
    return arguments[kind]


def run_in_surroundings(arguments: list[str], work: Path, rng: random.Random) -> tuple[int | None, str, str, str]:
    """Exit code, fault (none: the judge finds them), and the output on stderr and stdout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    variables = rng.choice(ENVIRONMENTS)
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    streams, place = rng.choice(STREAMS), rng.choice(PLACES)

    def begin() -> None:
        os.chdir(work)
        place(work)

    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "focaldet", *arguments]
    done = None
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, preexec_fn=begin, timeout=WAITING, check=False
        )
    except subprocess.TimeoutExpired:
        pass
    finally:
        for folder in (work / "given", *(work / "given").rglob("*")):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
    changed = {name: environment.get(name) for name in variables}
    where = f"{streams or 'usual streams'}, {place.__name__}, {changed}"
    if done is None:
        return None, f"over {WAITING} s in {where}", "", ""
    encoding = (variables.get("PYTHONIOENCODING") or "utf-8").split(":")[0]
    errors, output = (stream.decode(encoding, errors="surrogateescape") for stream in (done.stderr, done.stdout))
    errors = errors.removeprefix("sh: 0: getcwd() failed: No such file or directory\n")  # of the shell
    code = done.returncode
    if "2>" in streams and code == 2 and not errors:
        errors = "focaldet: said to nobody\n"
    return code, "" if code in (0, 2) else f"exit code {code} in {where}: {errors[-300:]!a}", errors, output
