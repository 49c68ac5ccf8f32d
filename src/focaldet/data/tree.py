"""The files below a folder, and the photo that a label file refers to.

Label files name photos by their paths on the machine of the annotator. One rule finds each photo here: the stated path;
else the photo whose path shares the longest tail with it; else the only photo of that name. Two candidates are a fault,
never a guess. Only files below the folder are ever opened, including links that the user made there.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from focaldet.checks import InputError
from focaldet.data.likeness import exact, longest_tails, most_alike, other_split
from focaldet.data.spelling import (
    as_uploaded,
    bare_name,
    before_upload,
    folded,
    folder_of,
    inside,
    is_absolute,
    spelled,
    stem,
)
from focaldet.files import open_regular, read_bytes
from focaldet.photos.images import IMAGE_SUFFIXES

_LEFTOVERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"})
"""Folders that operating systems create, besides hidden ones, which begin with a dot."""

MAX_LABELS = 2**33
"""Largest size of a label file in bytes; the largest public file, of Objects365, has 5.7 GB."""

_MAX_LINKS = 10_000
"""Largest number of linked folders to follow, since links to one another would never end."""


class PhotoError(Exception):
    """No photo matches a name, or several do; the message says which."""


class FoundPhoto(NamedTuple):
    """A photo of the folder.

    Args:
        name: relative to the folder, with forward slashes.
        certainty: how much of the stated path matches: ``AS_STATED``, else the number of last parts that agree, at
            least 1, or 0 if only the name without its suffix or before an upload agrees.
    """

    name: str
    certainty: int


AS_STATED = 1000
"""Certainty of a photo at the path that its label file states."""


class Tree:
    """All regular files below a folder, except hidden files and folders and those of operating systems.

    Args:
        root: the folder.

    Attributes:
        files: names relative to the folder, with forward slashes, sorted folder by folder.
        folders: names of the folders in it; the folder itself is the empty string.
        unusable: names of everything else: broken links, devices, pipes.

    Raises:
        OSError: a folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: list[str] = []
        self.unusable: set[str] = set()
        self._links = 0
        found: list[str] = []
        self._walk(str(root), "", (), found)
        self.files = sorted(found, key=_parts)
        self.folders.sort(key=_parts)

    def _walk(self, path: str, name: str, above: tuple[tuple[int, int], ...], found: list[str]) -> None:
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that contains the link
            return
        self.folders.append(name)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _LEFTOVERS:
                    continue
                below = f"{name}/{entry.name}" if name else entry.name
                try:
                    is_file, is_folder = entry.is_file(), entry.is_dir()
                except OSError:  # a link to itself
                    is_file = is_folder = False
                if is_file:
                    found.append(below)
                elif is_folder:
                    self._links += entry.is_symlink()
                    if self._links > _MAX_LINKS:
                        raise InputError(f"{self.root}: more than {_MAX_LINKS:,} links to folders; remove some")
                    self._walk(entry.path, below, (*above, here), found)
                else:
                    self.unusable.add(below)

    def path(self, name: str) -> Path:
        """Path of a file in the tree."""
        return self.root / name

    def read(self, name: str, most: int = MAX_LABELS) -> bytes:
        """The content of a file.

        Raises:
            InputError: the file is no longer regular, has more than ``most`` bytes, or cannot be read.
        """
        return read_bytes(self.path(name), most)

    def head(self, name: str, most: int) -> bytes:
        """The first bytes of a file.

        Raises:
            InputError: as ``read``.
        """
        with open_regular(self.path(name)) as file:
            return file.read(most)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Files with these suffixes, ignoring case.

        Args:
            suffixes: suffixes in lower case, with the dot.
        """
        found = [self._by_suffix.get(suffix, []) for suffix in suffixes]
        return sorted(chain.from_iterable(found), key=_parts) if len(found) > 1 else list(found[0])

    def below(self, folder: str, names: Iterable[str]) -> list[str]:
        """The files that are in a folder or its sub-folders."""
        return [name for name in names if not folder or name.startswith(f"{folder}/")]

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for name in self.files:
            index.setdefault(_suffix(name), []).append(name)
        return index

    @cached_property
    def photos(self) -> list[str]:
        """The image files."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def _by_path(self) -> dict[str, list[str]]:
        return self._photos_by(folded)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return self._photos_by(lambda name: folded(bare_name(name)))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return self._photos_by(lambda name: folded(stem(name)))

    @cached_property
    def _by_uploaded_stem(self) -> dict[str, list[str]]:
        return self._photos_by(lambda name: as_uploaded(stem(name)))

    def _photos_by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for name in self.photos:
            index.setdefault(key(name), []).append(name)
        return index

    def uploaded(self, bare: str) -> list[str]:
        """The photos to which Label Studio gives this name, in any format.

        Args:
            bare: name of a photo without its suffix.
        """
        before = before_upload(bare)
        return self._by_uploaded_stem.get(before, []) if before else []

    def at(self, folder: str, stated: str) -> str | None:
        """The photo at a path relative to a folder of the tree.

        Args:
            stated: path in any spelling; one that leads out of the tree has no photo.
        """
        name = self._joined(folder, stated)
        return None if name is None else exact(name, self._by_path.get(folded(name), []))

    def _joined(self, folder: str, stated: str) -> str | None:
        path = spelled(stated)
        if not is_absolute(path):
            name = inside(f"{folder}/{path}")
            if name is not None:
                return name
            path = _normal(f"{self.root.absolute().as_posix()}/{folder}/{path}")  # out of the folder, and into it again
        for root in (self.root.resolve(), self.root.absolute()):
            start = f"{root.as_posix().rstrip('/')}/"
            if f"{path}/".startswith(start):
                return inside(path[len(start) :])
        return None

    def photo(self, stated: str, *, beside: str, folders: Sequence[str] = ("",)) -> FoundPhoto:
        """The photo that a label file refers to.

        Args:
            stated: the path in the label file: on this machine or another, in any spelling, or a bare name; without a
                suffix, the photo may have any format.
            beside: the label file; among photos that match equally well, the one with the most similar folders is
                chosen.
            folders: folders that the path may be relative to.

        Raises:
            PhotoError: there is no such photo, or more than one.
        """
        spellings = [spelled(stated)]
        if "%" in stated:  # from a web address
            spellings.append(spelled(unquote(stated)))
        for spelling in spellings:
            for folder in folders:
                if (name := self.at(folder, spelling)) is not None:
                    return FoundPhoto(name, AS_STATED)
        for spelling in spellings:
            bare = spelling.rpartition("/")[2]
            candidates = self._by_name.get(folded(bare), [])
            if candidates := [c for c in candidates if not other_split(spelling, c)]:
                return self._nearest(spelling, candidates, beside)
        for spelling in spellings:
            bare = spelling.rpartition("/")[2]
            known = _suffix(bare) in IMAGE_SUFFIXES
            candidates = self._by_stem.get(folded(stem(bare) if known else bare), [])
            if candidates := [c for c in candidates if not other_split(spelling, c)]:
                found = self._nearest(spelling, candidates, beside)
                # A name without a suffix matches completely; with another suffix, only its stem does.
                return FoundPhoto(found.name, 0 if known else found.certainty)
        for spelling in spellings:
            if candidates := [c for c in self.uploaded(stem(spelling)) if not other_split(spelling, c)]:
                return FoundPhoto(self._nearest(spelling, candidates, beside).name, 0)
        raise PhotoError(f"there is no photo {_shown(stated)} here")

    def photo_of(self, label_file: str, stated: Sequence[str] = ()) -> FoundPhoto:
        """The photo with the same name as a label file.

        Args:
            label_file: ``a/labels/b/c.xml``; the photo is called ``c`` and is in the most similar folders.
            stated: paths in the file, the most reliable first. They are used only if several photos or none have that
                name, because they are often outdated by renaming.

        Raises:
            PhotoError: there is no such photo, or more than one.
        """
        own = folded(stem(label_file))  # "c", or "c.jpg" for "c.jpg.xml"
        candidates = self._by_stem.get(own) or self._by_name.get(own) or self.uploaded(stem(label_file))
        if candidates := [c for c in candidates if not other_split(label_file, c)]:
            # A mask of the same name may be nearer: the suffix stated in the file distinguishes it from the photo.
            names = {folded(spelled(path).rpartition("/")[2]) for path in stated}
            best = most_alike(label_file, [c for c in candidates if folded(bare_name(c)) in names] or candidates)
            for path in stated:
                best = longest_tails(spelled(path), best)[1]
            return FoundPhoto(self._only(best), AS_STATED)
        problem = PhotoError(f"there is no photo named {stem(label_file)!r:.120}")
        for path in stated:
            if path.strip():
                try:
                    return self.photo(path, beside=label_file, folders=(folder_of(label_file), ""))
                except PhotoError as error:
                    problem = error
        raise problem

    def _nearest(self, stated: str, candidates: list[str], beside: str) -> FoundPhoto:
        most, best = longest_tails(stated, candidates)
        if len(best) > 1:
            best = [name for name in best if name.endswith(stated.rpartition("/")[2])] or best
            best = most_alike(beside, best)
        return FoundPhoto(self._only(best), max(1, most))

    def _only(self, candidates: list[str]) -> str:
        files = {os.stat(self.path(name))[1:3]: name for name in reversed(candidates)}
        if len(files) > 1:
            first, second = sorted(files.values())[:2]
            raise PhotoError(f"{first} and {second} fit equally well; give the path of one, or remove the other")
        return next(iter(files.values()))

    def entry(self, stated: str, folders: Sequence[str]) -> tuple[str, ...] | None:
        """Resolve a path in a list or a description: a folder, a text file or a pattern of photos.

        Args:
            stated: absolute, relative, or relative to a folder above, in any spelling; ``*`` matches any characters.
            folders: folders that it may be relative to; the first match counts, then the longest matching tail, unless
                the path leads to something outside.

        Returns:
            Names of folders or files; ``None`` if nothing matches.
        """
        path = spelled(stated).rstrip("/") or "."
        there = self._entries
        for folder in folders:
            name = self._joined(folder, path)
            if name is not None and (found := self._matching(name)):
                return found
        if "*" in path or "?" in path or any(self._outside(folder, path) for folder in folders):
            return None
        parts = [part for part in path.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
        for start in range(len(parts)):
            if (name := "/".join(parts[start:])) and (known := there.get(folded(name))):
                return (known,)
        return None

    def _outside(self, folder: str, path: str) -> bool:
        """Whether a folder or file exists on this machine, but outside the tree."""
        return "\0" not in path and os.path.exists(path if is_absolute(path) else self.root / folder / path)

    @cached_property
    def _entries(self) -> dict[str, str]:
        return {folded(name): name for name in (*self.folders, *self.files)}

    def _matching(self, name: str) -> tuple[str, ...]:
        if "*" not in name and "?" not in name:
            known = self._entries.get(folded(name))
            return () if known is None else (known,)
        pattern = re.escape(folded(name)).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
        pattern = pattern.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        return tuple(photo for photo in self.photos if re.fullmatch(pattern, folded(photo)))


def _shown(stated: str) -> str:
    outside = is_absolute(path := spelled(stated)) or inside(path) is None
    return f"{stated!r:.160}" + (", which leads out of the folder, nor one of its name," if outside else "")


def _normal(path: str) -> str:
    return os.path.normpath(path).replace("\\", "/")


def _parts(name: str) -> list[str]:
    return name.split("/")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
