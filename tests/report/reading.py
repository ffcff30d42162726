"""Reads a page as a browser does, and refuses what a page of a result may not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br"}
OF_PAGES = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "figure", "figcaption"),
    *("h1", "h2", "h3", "p", "div", "ul", "li", "dl", "dt", "dd", "pre", "code", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "defs", "path", "use", "text", "clippath", "rect", "image", "lineargradient", "stop", "tspan"),
}


@dataclass
class Page(HTMLParser):
    """What was found; `texts` holds all text in order."""

    source: str
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    """Of each picture, the ids of its title and its description."""
    tables: int = 0
    comments: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []
        assert len(set(self.ids)) == len(self.ids)
        assert {each for pair in self.pictures for each in pair} <= set(self.ids)
        assert self.comments == 0

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OF_PAGES, tag
        self.tables += tag == "table"
        named = {name: value or "" for name, value in attrs}
        for name, value in named.items():
            assert not name.startswith("on"), name
            assert name not in {"src", "srcset", "action"}, name
            if name in {"href", "xlink:href"}:
                assert value.startswith(("#", "data:image/png;base64,")), value
            assert "url(" not in value or "url(#" in value
        if "id" in named and tag not in {"path", "clippath", "image"}:  # which are alike where their ids are
            self.ids.append(named["id"])
        if named.get("role") == "img":
            self.pictures.append((named["aria-labelledby"], named["aria-describedby"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments += 1
