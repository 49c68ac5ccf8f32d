"""One configuration of a study's training."""

from dataclasses import dataclass
from typing import Any

from focaldet.records.study import Group, RungRow

FROM_RUNG = "rung:"
"""Prefix of a rung's name as the value of ``teacher``: its run with the same seed."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One configuration of the training.

    Args:
        name: identifier, used in file names.
        title: name for people.
        changes: fields of ``TrainConfig`` that differ from the settings of the study.
        before: name of the rung to compare with.
        changed: description of the change, for people.
        group: ``ladder``, the parameter that an extra rung varies, or the chapter of the page.
    """

    name: str
    title: str
    changes: dict[str, Any]
    before: str | None
    changed: str
    group: Group = "ladder"

    def row(self) -> RungRow:
        """The rung in the format of ``study.json``."""
        return RungRow(
            name=self.name,
            title=self.title,
            group=self.group,
            changes=self.changes,
            compared_with=self.before,
            changed=self.changed,
        )


def teacher_rung(changes: dict[str, Any]) -> str | None:
    """Name of the rung whose run is the teacher of a rung with these changes."""
    teacher = changes.get("teacher")
    return teacher.removeprefix(FROM_RUNG) if isinstance(teacher, str) and teacher.startswith(FROM_RUNG) else None
