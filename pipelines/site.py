"""Hooks of the documentation site (`mkdocs.yml`): the guide is the README, every method's page is in the menu."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parents[1]
BESIDE = ("CITATION.cff",)
"""Files of the project that the README links to."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the methods below their list."""
    docs = Path(config.docs_dir)
    assert config.nav is not None
    for part in config.nav:
        for title, pages in part.items():
            if title == "Methods":
                pages += [f"methods/{page.name}" for page in sorted(docs.glob("methods/*.md")) if page.stem != "index"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the first page, its links turned to the pages."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for name in BESIDE:
        files.append(File.generated(config, name, content=(PROJECT / name).read_text(encoding="utf-8")))
    return files
