"""The colours of the pages: legible on both papers and in print (WCAG 2, level AA)."""

import re

import pytest

from focaldet.report.page import TEMPLATES

STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")


def themes() -> dict[str, dict[str, str]]:
    """Light, dark and print -> variable -> ``#rrggbb``; what a theme leaves out is the light one's."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    found = [
        {name: color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:]) for name, color in pairs}
        for pairs in (re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block) for block in blocks)
    ]
    return {name: found[0] | theme for name, theme in zip(("light", "dark", "print"), found, strict=True)}


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """From 1 (equal) to 21 (black on white).

    >>> round(contrast("#000000", "#ffffff"), 6)
    21.0
    """
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_stand_out_from_the_paper(theme: str) -> None:
    colors = themes()[theme]
    for paper in ("paper", "wash"):
        for text in ("ink", "soft", "link"):
            assert contrast(colors[text], colors[paper]) >= 4.5, f"{text} on {paper}"
    for i in range(8):
        assert contrast(colors[f"s{i}"], colors["paper"]) >= 3, f"s{i}"
