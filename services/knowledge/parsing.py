"""Documents as titled sections of text: Markdown, HTML, PDF, DOCX, CSV, plain text.

Whatever has headings becomes HTML first and is read in one way. Parsers are imported when a document needs them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

DOCUMENT_BYTES_MAX = 8 * 2**20
TEXT_CHARS_MAX = 4_000_000  # of one document, unpacked
PAGES_MAX = 2_000  # of a PDF
DOCX_BYTES_MAX = 64 * 2**20  # unpacked


class DocumentUnreadable(ValueError):
    """A document that cannot be read. The message says why, for whoever added it."""


@dataclass(frozen=True, slots=True)
class DocumentSection:
    """Text under one heading; `heading` is empty before the first."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says."""

    title: str
    sections: tuple[DocumentSection, ...]


def parse(name: str, data: bytes) -> Document:
    """Read a file by its name's ending. Raises DocumentUnreadable."""
    suffix = PurePath(name).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise DocumentUnreadable(f"{name}: {suffix or 'no ending'} is not supported; use {', '.join(sorted(_READERS))}")
    if len(data) > DOCUMENT_BYTES_MAX:
        raise DocumentUnreadable(f"{name}: {len(data)} bytes are more than {DOCUMENT_BYTES_MAX}")
    title = PurePath(name).stem.replace("_", " ").replace("-", " ")
    document = reader(title, data)
    sections = tuple(section for section in document.sections if section.text.strip())
    if not sections:
        raise DocumentUnreadable(f"{name}: no text was found")
    if sum(len(section.text) for section in sections) > TEXT_CHARS_MAX:
        raise DocumentUnreadable(f"{name}: more than {TEXT_CHARS_MAX} characters")
    return Document(document.title, sections)


def text_of(data: bytes) -> str:
    """A text file. Raises DocumentUnreadable."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentUnreadable("the file is not UTF-8 text") from None


def _plain(title: str, data: bytes) -> Document:
    return Document(title, (DocumentSection("", text_of(data)),))


def _markdown(title: str, data: bytes) -> Document:
    from markdown_it import MarkdownIt  # noqa: PLC0415

    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text_of(data))
    return _html_text(title, html)


def _html(title: str, data: bytes) -> Document:
    return _html_text(title, data.decode("utf-8-sig", "replace"))


def _html_text(title: str, html: str) -> Document:
    """Sections by headings; scripts, menus and footers left out."""
    from selectolax.lexbor import LexborHTMLParser  # noqa: PLC0415

    tree = LexborHTMLParser(html)
    for node in tree.css("script, style, noscript, template, nav, footer, header nav, svg, form"):
        node.decompose()
    named = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(named.text().split()) if named is not None and named.text().strip() else title
    for node in tree.css("h1, h2, h3, h4"):
        node.replace_with(f"\n\x1e{' '.join(node.text().split())}\x1f\n")
    for node in tree.css("p, li, tr, br, div, section, article, dt, dd, blockquote, pre"):
        node.insert_after("\n")
    for node in tree.css("td, th"):
        node.insert_after(" ")
    body = tree.body.text() if tree.body is not None else ""
    return Document(title, tuple(_sections(body, title)))


def _sections(text: str, title: str) -> Iterator[DocumentSection]:
    first, *others = text.split("\x1e")
    yield DocumentSection("", _tidy(first))
    for part in others:
        heading, _, body = part.partition("\x1f")
        yield DocumentSection("" if heading == title else heading, _tidy(body))


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    kept = [line for line, after in pairwise([*lines, ""]) if line or after]
    return "\n".join(kept).strip()


def _pdf(title: str, data: bytes) -> Document:
    from pypdf import PdfReader  # noqa: PLC0415
    from pypdf.errors import PyPdfError  # noqa: PLC0415

    try:
        reader = PdfReader(io.BytesIO(data))
        if len(reader.pages) > PAGES_MAX:
            raise DocumentUnreadable(f"more than {PAGES_MAX} pages")
        pages = [DocumentSection(f"p. {number}", page.extract_text()) for number, page in enumerate(reader.pages, 1)]
        named = reader.metadata.title if reader.metadata else None
    except (PyPdfError, ValueError, KeyError, RecursionError, OSError) as error:
        raise DocumentUnreadable(f"the PDF cannot be read: {error}") from None
    return Document(str(named).strip() if named and str(named).strip() else title, tuple(pages))


def _docx(title: str, data: bytes) -> Document:
    import zipfile  # noqa: PLC0415

    import mammoth  # noqa: PLC0415

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > DOCX_BYTES_MAX:
                raise DocumentUnreadable(f"the document unpacks to more than {DOCX_BYTES_MAX} bytes")
        html = mammoth.convert_to_html(io.BytesIO(data), convert_image=mammoth.images.img_element(_no_image)).value
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DocumentUnreadable(f"the Word document cannot be read: {error}") from None
    return _html_text(title, f"<body>{html}</body>")


def _no_image(_: object) -> dict[str, str]:
    return {}


def _csv(title: str, data: bytes) -> Document:
    """Each row under its columns' names."""
    text = text_of(data)
    try:
        dialect = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = list(csv.reader(io.StringIO(text), dialect))
    except csv.Error as error:
        raise DocumentUnreadable(f"the CSV file cannot be read: {error}") from None
    head = rows[0] if rows else []
    said = ("; ".join(f"{name}: {value}" for name, value in zip(head, row, strict=False) if value) for row in rows[1:])
    return Document(title, tuple(DocumentSection("", row) for row in said))


_READERS: Mapping[str, Callable[[str, bytes], Document]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _docx,
    ".csv": _csv,
    ".txt": _plain,
}
