"""Text from outside for each kind of output: a corpus of names that try to be more than text."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re

import pytest
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ectype.core.console import ActivityConsole, say
from ectype.core.escape import (
    as_one_line,
    code_block,
    code_span,
    for_csv,
    for_html,
    for_json,
    for_latex,
    for_markdown,
    for_terminal,
    write_csv,
)
from ectype.core.table import Table

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "over\rwritten",
    "a\nerror: forged",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "bad \udcff byte",
    "[bold]b[/] [/nothing]",
    ":bug:",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "=cmd|' /C calc'!A1",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "`code` **bold** _it_ [x](javascript:alert(1)) ![i](u)",
    "| a | b |",
    "# head",
    "- item",
    "1. item",
    "http://evil.example www.evil.example @someone",
    "\\input{/etc/passwd} $x^2$ 100% a&b #1 ~ {x} <y>",
    "```\nout",
]
RAW_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printed(*things: object, **options: object) -> str:
    target = io.StringIO()
    console = ActivityConsole(file=target, width=200, **options)
    for thing in things:
        console.print(thing, highlight=False, soft_wrap=isinstance(thing, str | Text))
    return target.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_what_a_name_contains(text: str) -> None:
    for shown in (printed(text), printed(Text(text)), for_terminal(text)):
        assert not RAW_CONTROL.search(shown)
    table = RichTable(text, title=text)
    table.add_row(text)
    assert not RAW_CONTROL.search(printed(table))
    assert as_one_line(text).count("\n") == 0
    # Square brackets and colons are no markup and no emoji.
    target = io.StringIO()
    for console in (ActivityConsole(file=target, width=300), Console(file=target, width=300)):
        say(console, f"name: {text}")
    assert target.getvalue() == 2 * f"name: {for_terminal(text)}\n".expandtabs()


def test_colors_and_lines_that_are_printed_over_still_work() -> None:
    target = io.StringIO()
    console = ActivityConsole(file=target, force_terminal=True, color_system="standard", width=80)
    console.print(Text("red", "red"), end="\r")
    assert target.getvalue() == "\x1b[31mred\x1b[0m\r"
    assert for_terminal("Zürich 東京\t👩‍🚀\n") == "Zürich 東京\t👩‍🚀\n"


class Tags(html.parser.HTMLParser):
    """Collects tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


@pytest.mark.parametrize("text", HOSTILE)
def test_html_has_no_tag_and_no_attribute_more(text: str) -> None:
    parser = Tags()
    parser.feed(f'<p title="{for_html(text)}">{for_html(text)}</p>')
    assert parser.tags == ["p"]
    parser = Tags()
    parser.feed(Table([{text: text}])._repr_html_())
    assert set(parser.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_is_one_paragraph_of_plain_text(text: str) -> None:
    markdown = pytest.importorskip("markdown")  # comes with the tools that build the site
    parser = Tags()
    page = markdown.markdown(f"{for_markdown(text)}\n\n| a |\n|---|\n| {for_markdown(text)} |", extensions=["tables"])
    parser.feed(page)
    assert [tag for tag in parser.tags if tag not in ("table", "thead", "tbody", "tr", "th", "td")] == ["p"]
    assert parser.tags.count("td") == 1
    page = markdown.markdown(code_block("", ["before", text, "after"]), extensions=["fenced_code"])
    parser = Tags()
    parser.feed(page)
    assert parser.tags == ["pre", "code"]
    parser = Tags()
    parser.feed(markdown.markdown(f"name {code_span(text)} end"))
    assert parser.tags == ["p", "code"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_no_formula(text: str) -> None:
    target = io.StringIO()
    write_csv(target, [["name", "value"], [text, -1.5]])
    _, (cell, value) = csv.reader(io.StringIO(target.getvalue(), newline=""))
    assert cell[0] not in "=+-@\t\r"
    assert value == "-1.5"
    assert not RAW_CONTROL.search(target.getvalue().replace("\r\n", "\n"))
    assert Table([{text: -1.5}]).to_csv().startswith(("'", '"', cell[0]))


def test_numbers_are_no_formulas() -> None:
    kept = [-1.5, "-1.5", "+3", "-2e-05", None, True, "a=b", ""]
    assert [for_csv(value) for value in kept] == kept


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_has_no_macro_of_the_text(text: str) -> None:
    found = for_latex(text)
    known = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[&%$#_{}]|\$[-\\a-z]+\$"
    assert not re.search(r"[\\~^&%$#_{}<>]", re.sub(known, "", found))
    assert not RAW_CONTROL.search(found)
    assert "\n" not in found


@pytest.mark.parametrize("text", HOSTILE)
def test_json_means_the_same(text: str) -> None:
    found = for_json(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(found) == {text: text}
    assert not RAW_CONTROL.search(found)
