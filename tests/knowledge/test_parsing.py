"""Documents of every kind become passages with their headings, and bad ones are refused with a reason."""

from __future__ import annotations

import io
import zipfile

import pytest

from services.knowledge.parsing import DocumentUnreadable
from services.knowledge.passages import PASSAGE_CHARS_MAX, passages_of

WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{}</w:body></w:document>'


def docx(*paragraphs: str) -> bytes:
    """A Word document; a paragraph that begins with # is a heading."""
    body = ""
    for text in paragraphs:
        style = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>' if text.startswith("#") else ""
        body += f"<w:p>{style}<w:r><w:t>{text.lstrip('#')}</w:t></w:r></w:p>"
    content = "http://schemas.openxmlformats.org/package/2006/content-types"
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    styles = (
        '<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        '<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>'
    )
    to_styles = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{content}"><Default Extension="rels" ContentType="application/xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}.document.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}">'
        f'<Relationship Id="r" Type="{office}" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{relations}">'
        f'<Relationship Id="s" Type="{to_styles}" Target="styles.xml"/></Relationships>',
        "word/styles.xml": styles,
        "word/document.xml": WORD.format(body),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


def pdf(text: str) -> bytes:
    """A page with one line."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(out),
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("shop.md", b"# Alder\n\nHello.\n\n## Returns\n\n- You have **60 days**.\n"),
        (
            "shop.html",
            b"<title>Alder</title><nav>Menu</nav><script>bad()</script><h2>Returns</h2><p>You have <b>60 days</b>.</p>",
        ),
        ("shop.docx", docx("#Returns", "You have 60 days.")),
        ("shop.txt", b"Returns: You have 60 days."),
        ("shop.csv", b"topic,answer\nReturns,You have 60 days.\n"),
        ("shop.pdf", pdf("Returns: You have 60 days.")),
    ],
)
def test_every_kind_of_document_gives_its_text_and_headings(name: str, data: bytes) -> None:
    found = passages_of(name, data)
    text = " ".join(f"{each.title} {each.text}" for each in found)
    assert "You have 60 days." in text
    assert "Returns" in text
    assert "Menu" not in text
    assert "bad()" not in text


def test_pairs_in_a_text_are_faq_pairs() -> None:
    found = passages_of(
        "faq.md", b"# FAQ\n\nNot this.\n\nQ: How?\nA: So,\n  like this.\n\n# More\n\nQ: Why?\nA: Therefore.\n"
    )
    assert [(each.question, each.text) for each in found] == [("How?", "So, like this."), ("Why?", "Therefore.")]


def test_long_sections_are_cut_where_sentences_end() -> None:
    found = passages_of("long.txt", ("The board is made of oak. " * 200).encode())
    assert len(found) > 4
    assert all(len(each.text) <= PASSAGE_CHARS_MAX and each.text.endswith("oak.") for each in found)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.exe", b"MZ", "not supported"),
        ("a.pdf", b"no PDF at all", "cannot be read"),
        ("a.docx", b"no Word document", "cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.md", b"  \n", "no text"),
        ("a.txt", b"x" * (8 * 2**20 + 1), "more than"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(name: str, data: bytes, why: str) -> None:
    with pytest.raises(DocumentUnreadable, match=why):
        passages_of(name, data)
