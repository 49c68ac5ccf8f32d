"""The files below a folder, and the photo that a label file means.

Label files name their photos as they lay on the machine of whoever made them. One rule finds each of them here: the
stated path; else the photo whose path ends in the longest part of it; else the only photo of that name. Two candidates
are a fault and never a guess. Only what lies below the folder is ever opened; a link that the user made there counts.
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
"""Folders of copies that operating systems leave; hidden ones begin with a point."""

MAX_LABELS = 2**33
"""Bytes of a file of labels: the largest public one, of Objects365, has 5.7 GB."""

_MAX_LINKS = 10_000
"""Links to folders that are followed: links that lead to one another would never end."""


class PhotoError(Exception):
    """No photo, or more than one, fits a name; its text says which."""


class FoundPhoto(NamedTuple):
    """A photo of the folder.

    Args:
        name: relative to the folder, with forward slashes.
        certainty: how much of the stated path leads to it: ``AS_STATED``, else the number of its last parts that agree,
            at least 1, or 0 when only the name without its suffix does, or that before an upload.
    """

    name: str
    certainty: int


AS_STATED = 1000
"""Certainty of a photo that lies where its label file says."""


class Tree:
    """Every regular file below a folder; hidden files and folders and what operating systems leave are passed over.

    Args:
        root: the folder.

    Attributes:
        files: names relative to the folder, with forward slashes, sorted folder by folder.
        folders: the folders in it likewise; the folder itself is the empty string.
        unusable: names of what is neither: broken links, devices, pipes.

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
        if here in above:  # a link to a folder that holds it
            return
        self.folders.append(name)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _LEFTOVERS:
                    continue
                below = f"{name}/{entry.name}" if name else entry.name
                try:
                    is_file, is_folder = entry.is_file(), entry.is_dir()
                except OSError:  # a link that leads to itself
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
        """Where a file of the tree lies."""
        return self.root / name

    def read(self, name: str, most: int = MAX_LABELS) -> bytes:
        """The content of a file.

        Raises:
            InputError: it has become another kind of file since, has more than ``most`` bytes, or cannot be read.
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
        """Files whose names end so, in capitals or not.

        Args:
            suffixes: in small letters, with the point.
        """
        found = [self._by_suffix.get(suffix, []) for suffix in suffixes]
        return sorted(chain.from_iterable(found), key=_parts) if len(found) > 1 else list(found[0])

    def below(self, folder: str, names: Iterable[str]) -> list[str]:
        """Those of some files that lie in a folder or in the folders in it."""
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
        """The photos that Label Studio calls so, in any format.

        Args:
            bare: of a photo, without its suffix.
        """
        before = before_upload(bare)
        return self._by_uploaded_stem.get(before, []) if before else []

    def at(self, folder: str, stated: str) -> str | None:
        """The photo at a path that is relative to a folder of the tree.

        Args:
            stated: in any spelling of a path; one that leads out of the tree is at no photo.
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
        """The photo that a label file means.

        Args:
            stated: the path in the label file: of this machine or another, in any spelling, or a bare name; without a
                suffix it may be a photo of any format.
            beside: the label file: of photos that fit equally well, the one in the folders most like its own is meant.
            folders: folders that the path may be relative to.

        Raises:
            PhotoError: there is no such photo, or more than one.
        """
        spellings = [spelled(stated)]
        if "%" in stated:  # of an address
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
                # A name without a suffix is whole; of a name with another suffix only the rest agrees.
                return FoundPhoto(found.name, 0 if known else found.certainty)
        for spelling in spellings:
            if candidates := [c for c in self.uploaded(stem(spelling)) if not other_split(spelling, c)]:
                return FoundPhoto(self._nearest(spelling, candidates, beside).name, 0)
        raise PhotoError(f"there is no photo {_shown(stated)} here")

    def photo_of(self, label_file: str, stated: Sequence[str] = ()) -> FoundPhoto:
        """The photo of a label file that is named like its photo.

        Args:
            label_file: ``a/labels/b/c.xml``; the photo is called ``c`` and lies in the folders most like these.
            stated: paths in the file, the surest first. They decide where several photos have that name, and they are
                all there is where none has it: they are often left over from before a renaming.

        Raises:
            PhotoError: there is no such photo, or more than one.
        """
        own = folded(stem(label_file))  # "c", or "c.jpg" of "c.jpg.xml"
        candidates = self._by_stem.get(own) or self._by_name.get(own) or self.uploaded(stem(label_file))
        if candidates := [c for c in candidates if not other_split(label_file, c)]:
            # A mask of its name may lie nearer: the suffix that the file states tells it from the photo.
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
        """What a list or a description means by a path: a folder, a text file or a pattern of photos.

        Args:
            stated: absolute, relative, or relative to a folder above, in any spelling; ``*`` stands for any letters.
            folders: folders that it may be relative to; the first in which it is found is taken, then its longest tail,
                unless the path leads to something outside.

        Returns:
            Names of folders or files; ``None`` when there is nothing.
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
        """Whether there is such a folder or file on this machine, and not in this folder."""
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
