"""SVG files: checked, and rendered by resvg. This is the one file that calls it.

A document of others may name files of this machine, expand without end, or make the renderer abort the process. So the
elements are counted with all their references expanded, and what cannot be bounded in this way is rejected. Text is not
rendered: it would need fonts.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable
from xml.parsers import expat

from rdm_jax.core import text

INK = "#111111"
"""What `currentColor` is where a document does not say."""

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
"""Of nested elements, references included; the renderer needs stack for each."""

MAX_WORK = 300_000
"""Of a document with all references expanded, in units of a simple shape: see `_work`."""

# Elements whose cost depends on more than their number and the size of the image.
_UNBOUNDED = frozenset({"pattern", "marker", "feTurbulence", "feMorphology", "feConvolveMatrix", "feImage", "feTile"})
_ELEMENT_WORK = {"filter": 1000, "mask": 150, "clipPath": 150}  # each time that it is referred to

_REFERENCE = re.compile(r"""url\(\s*['"]?\s*#([^'")\s]+)""", re.IGNORECASE)
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_OF_CLASS = re.compile(r"\s*[\w-]*\.([\w-]+)\s*")
_EMBEDDED = re.compile(r"data:image/(?:png|jpe?g|gif|webp);base64,", re.IGNORECASE)
_LAYER = re.compile(r"\b(opacity|mix-blend-mode|isolation)\b")


PixelCount = Callable[[bytes], int]
"""Returns the number of pixels of an image file, which is not decoded."""


def to_png(document: str, side: int) -> bytes:
    """Returns a document that was checked as a PNG file with transparency: its largest size within side x side pixels.

    Raises:
      ValueError: it cannot be rendered.
    """
    import resvg_py

    try:
        # With both given, resvg takes the largest size of the document's shape within them, whatever it says itself.
        return resvg_py.svg_to_bytes(svg_string=document, skip_system_fonts=True, width=side, height=side)
    except ValueError as error:
        raise ValueError(f"not a readable SVG file: {error}") from error


def checked(data: bytes, pixel_count: PixelCount) -> str:
    """Returns the text of an SVG file that is safe to render, with `INK` as its color unless it has one.

    Args:
      data: the file.
      pixel_count: of the images that are embedded in it.

    Raises:
      ValueError: it is damaged, too large, too much work, or refers to something outside the file.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"an SVG file of {len(data)} bytes, more than {MAX_BYTES}; simplify it")
    source = text.decode(data)
    document = _Document(pixel_count)
    document.parse(source.encode())
    document.check_work()
    return document.colored()


@dataclasses.dataclass
class _Element:
    """What an element or a rule of a style sheet costs and refers to."""

    work: int
    references: list[str]
    classes: list[str] = dataclasses.field(default_factory=list)
    children: list[_Element] = dataclasses.field(default_factory=list)
    entered: bool = False
    cost: int | None = None  # with all inner elements
    height: int = 0  # of the tree of its inner elements


class _Document:
    """The elements of a document, as its parser meets them."""

    def __init__(self, pixel_count: PixelCount) -> None:
        self._pixel_count = pixel_count
        self._source = b""
        self._root: _Element | None = None
        self._ink_at: int | None = None
        self._open: list[_Element] = []
        self._by_id: dict[str, _Element] = {}
        self._by_class: dict[str, list[_Element]] = {}
        self._style: list[str] = []  # the text of the style sheets
        self._in_style = False
        self._work_of_all = 0  # of the rules that may apply to any element
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = _reject_entity

    def parse(self, source: bytes) -> None:
        """Reads the elements; raises ValueError if one of them cannot be rendered safely."""
        self._source = source
        try:
            self._parser.Parse(source, True)
        except expat.ExpatError as error:
            raise ValueError(f"not a readable SVG file: {error}") from error
        self._read_style("".join(self._style))

    def check_work(self) -> None:
        """Raises ValueError if rendering is more than `MAX_WORK` or `MAX_DEPTH`, or never ends."""
        assert self._root is not None  # the parser rejects a document without one
        if self._cost(self._root, 0) > MAX_WORK:
            raise ValueError("an SVG file of too many elements with all its references; simplify it")

    def colored(self) -> str:
        """Returns the document with `INK` as the color of its root, unless that has one."""
        place = self._ink_at
        if place is None:
            return self._source.decode()
        return f'{self._source[:place].decode()} color="{INK}"{self._source[place:].decode()}'

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        if len(self._open) >= MAX_DEPTH:
            raise ValueError(f"an SVG file nested more than {MAX_DEPTH} deep")
        if local in _UNBOUNDED:
            raise ValueError(f"an SVG file with <{local}>, which is not supported; convert it to paths")
        element = _element(local, attributes, self._pixel_count)
        if self._root is None:
            self._enter_root(local, element, attributes)
        else:
            self._open[-1].children.append(element)
        if "id" in attributes:
            self._by_id.setdefault(attributes["id"], element)
        self._open.append(element)
        self._in_style = local == "style"

    def _enter_root(self, local: str, element: _Element, attributes: dict[str, str]) -> None:
        if local != "svg":
            raise ValueError(f"not a readable SVG file: its root is <{local}>")
        self._root = element
        if "color" not in attributes:
            tag = re.compile(rb"<[^\s/>]+").match(self._source, self._parser.CurrentByteIndex)
            self._ink_at = tag.end() if tag else None

    def _end(self, _: str) -> None:
        self._open.pop()
        self._in_style = False

    def _characters(self, data: str) -> None:
        if self._in_style:
            self._style.append(data)

    def _read_style(self, sheet: str) -> None:
        for selectors, body in _RULE.findall(sheet):
            rule = _element("", {"style": body}, self._pixel_count)
            names = [_OF_CLASS.fullmatch(selector) for selector in selectors.split(",")]
            for name in names:
                if name is not None:
                    self._by_class.setdefault(name[1], []).append(rule)
            if None not in names:
                continue
            if rule.references:
                raise ValueError(f"an SVG file whose style sheet has references for {selectors.strip()!r}; simplify it")
            self._work_of_all += rule.work

    def _cost(self, element: _Element, depth: int) -> int:
        """Returns the work of an element with its children and what it refers to."""
        if element.cost is None:
            if element.entered:
                raise ValueError("an SVG file with an element that refers to itself")
            if depth > MAX_DEPTH:
                raise ValueError(f"an SVG file nested more than {MAX_DEPTH} deep by references")
            element.entered = True
            cost = element.work + self._work_of_all
            for inner in self._inner(element):
                cost = min(cost + self._cost(inner, depth + 1), MAX_WORK + 1)
                element.height = max(element.height, inner.height + 1)
            element.cost = cost
        if depth + element.height > MAX_DEPTH:
            raise ValueError(f"an SVG file nested more than {MAX_DEPTH} deep by references")
        return element.cost

    def _inner(self, element: _Element) -> list[_Element]:
        targets = [self._by_id[name] for name in element.references if name in self._by_id]
        rules = [rule for name in element.classes for rule in self._by_class.get(name, ())]
        return [*element.children, *targets, *rules]


def _local(name: str) -> str:
    """Returns the name of an element or attribute without its namespace and prefix."""
    return name.rpartition(" ")[2].rpartition(":")[2]


def _reject_entity(*_: object) -> None:
    raise ValueError("an SVG file that declares entities, which could expand without end; save it as plain SVG")


def _element(local: str, attributes: dict[str, str], pixel_count: PixelCount) -> _Element:
    """Returns an element; raises ValueError if it refers to something outside the document."""
    references = [name for value in attributes.values() for name in _REFERENCE.findall(value)]
    pixels = 0
    for name, value in attributes.items():
        target = value.strip()
        if _local(name) != "href" or local == "a" or not target:  # links of <a> are never followed
            continue
        if target.startswith("#"):
            references.append(target[1:])
        else:
            pixels += pixel_count(_embedded(target))
    work = _work(local, attributes) + pixels // 1000
    return _Element(work, references, attributes.get("class", "").split())


def _work(local: str, attributes: dict[str, str]) -> int:
    """Returns the work of an element alone: 1, more by its bytes, and what layers and dashes take to render."""
    work = 1 + sum(map(len, attributes.values())) // 64 + _ELEMENT_WORK.get(local, 0)
    written = " ".join((*attributes, attributes.get("style", "")))
    if _LAYER.search(written):
        work += 100
    if "stroke-dasharray" in written:
        work += 5000
    return work


def _embedded(target: str) -> bytes:
    """Returns the image file that a reference embeds."""
    head = _EMBEDDED.match(target)
    if head is None:
        shown = target if len(target) <= 60 else f"{target[:60]}..."
        raise ValueError(f"an SVG file that refers to {shown!r}; only its own elements and embedded images are read")
    try:
        return base64.b64decode(target[head.end() :])
    except binascii.Error as error:
        raise ValueError(f"an SVG file with a damaged embedded image: {error}") from error
