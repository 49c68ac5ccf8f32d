"""Read XML label files without expanding anything."""

import re
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from focaldet.checks import InputError
from focaldet.data.tree import Tree

_HEAD = 4096
"""An XML file must name its root element within this many bytes."""

_KNOWN_ENCODINGS = frozenset({b"utf-8", b"utf-16", b"iso-8859-1", b"us-ascii", b"ascii"})
"""Encodings that the parser reads itself."""


def root_element(tree: Tree, name: str) -> str:
    """The tag of an XML file's root element, or ``""`` if its first bytes contain none."""
    head = tree.head(name, _HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.replace(b"\0", b"")
    found = re.search(
        rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)", re.sub(rb"<!--.*?(?:-->|$)", b"", head, flags=re.DOTALL)
    )
    return found[1].decode() if found else ""


def parse_xml(tree: Tree, name: str) -> Element:
    """Parse an XML file without expanding anything.

    Raises:
        InputError: the file declares entities or refers to others.
        ValueError: the file is not XML.
    """
    try:
        root: Element = fromstring(_with_known_encoding(tree.read(name)), forbid_dtd=False)
    except DefusedXmlException as error:
        # Annotations never need entities: this file is an attack or an accident, and none of them is expanded.
        kind = type(error).__name__
        raise InputError(
            f"{name}: the XML declares or includes entities ({kind}); remove the file or the DTD"
        ) from None
    except (ParseError, LookupError, RecursionError, UnicodeError) as error:
        raise ValueError(f"not readable as XML ({error}); save it again, in UTF-8") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace
    return root


def _with_known_encoding(data: bytes) -> bytes:
    """The file in UTF-8 if it declares an encoding that the parser does not know, such as GB2312."""
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"'][^>]*\?>", data[:_HEAD])
    if declared is None or declared[1].lower() in _KNOWN_ENCODINGS:
        return data
    return data[declared.end() :].decode(declared[1].decode()).encode()
