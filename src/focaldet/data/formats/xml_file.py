"""XML files of labels, read without expanding anything."""

import io
import re
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from focaldet.checks import InputError
from focaldet.data.tree import Tree

_HEAD = 4096
"""Bytes in which an XML file names its root element."""


def root_element(tree: Tree, name: str) -> str:
    """The tag of an XML file's root element, or ``""`` where its beginning shows none."""
    head = tree.head(name, _HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.replace(b"\0", b"")
    found = re.search(rb"<([A-Za-z_][\w.:-]*)", re.sub(rb"<!--.*?(?:-->|$)", b"", head, flags=re.DOTALL))
    return found[1].decode() if found else ""


def parse_xml(tree: Tree, name: str) -> Element:
    """An XML file, read without expanding anything.

    Raises:
        InputError: it declares entities or refers to others.
        ValueError: it is not XML.
    """
    try:
        root: Element = parse(io.BytesIO(tree.read(name)), forbid_dtd=False).getroot()
    except DefusedXmlException as error:
        # Annotations have no use for entities: this file is an attack or an accident, and nothing of it is expanded.
        kind = type(error).__name__
        raise InputError(
            f"{name}: the XML declares or includes entities ({kind}); remove the file or the DTD"
        ) from None
    except (ParseError, LookupError, RecursionError) as error:
        raise ValueError(f"not readable as XML ({error})") from None
    return root
