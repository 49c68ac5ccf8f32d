"""Compare paths, and guess the split from their words."""

import unicodedata

from focaldet.data.spelling import folded, folder_of, is_absolute, stem

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Word in a file or folder name -> split."""


def split_of(name: str) -> str:
    """The split that a file or folder name suggests, or the empty string.

    >>> split_of("instances_val2017"), split_of("valid"), split_of("labels")
    ('val', 'val', '')
    """
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS), "")


def exact(name: str, candidates: list[str]) -> str | None:
    """Among names that differ only in case, the one with this spelling, or the only one."""
    composed = unicodedata.normalize("NFC", name)
    for candidate in candidates:
        if unicodedata.normalize("NFC", candidate) == composed:
            return candidate
    return candidates[0] if len(candidates) == 1 else None


def longest_tails(stated: str, candidates: list[str]) -> tuple[int, list[str]]:
    """The candidates that share the longest tail with a path, and the number of its parts."""
    parts = folded(stated).split("/")[::-1]
    agree = {}
    for name in candidates:
        pairs = zip(parts, folded(name).split("/")[::-1], strict=False)
        agree[name] = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(parts), name.count("/") + 1))
    most = max(agree.values())
    return most, [name for name in candidates if agree[name] == most]


def _words(folders: str) -> list[str]:
    """The split that a folder name suggests, or the name itself."""
    return [split_of(part) or part for part in folded(folders).split("/") if part]


def other_split(stated: str, there: str) -> bool:
    """Whether the folders of two paths suggest different splits, so that the paths cannot mean the same file.

    Folders of another machine can have any name.
    """
    if is_absolute(stated):
        return False
    a, b = (next(filter(None, map(split_of, folder_of(path).split("/")[::-1])), "") for path in (stated, there))
    return bool(a and b and a != b)


def most_alike(label_file: str, candidates: list[str]) -> list[str]:
    """The candidates that share the most folders with a label file, whose own name may also be a folder's."""
    if len(candidates) < 2:
        return candidates
    own = _words(f"{folder_of(label_file)}/{stem(label_file)}")
    shared = {}
    for name in candidates:
        rest = list(own)
        for word in _words(folder_of(name)):
            if word in rest:
                rest.remove(word)
        shared[name] = len(own) - len(rest)
    most = max(shared.values())
    return [name for name in candidates if shared[name] == most]
