"""A bot's documents are found beside the configuration, wherever the host was started."""

from __future__ import annotations

from pathlib import Path

from services.config.schema import load

HOST = """
models: {m: {engine: llamacpp, weights: x.gguf}}
tenants:
  acme: {bots: {shop: {model: m, knowledge: {documents: [faq.md, /data/other.md], faq: [{q: "How?", a: So.}]}}}}
"""


def test_relative_documents_are_of_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(HOST)
    knowledge = load(path).tenants["acme"].bots["shop"].knowledge
    assert knowledge is not None
    assert knowledge.documents == (tmp_path / "faq.md", Path("/data/other.md"))
    assert knowledge.faq[0].a == "So."
