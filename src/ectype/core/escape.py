r"""Text from outside, escaped for the place where it goes.

Names of files, classes, recipes, runs and columns, texts in a recipe, answers of the Hub and reasons of errors are
written by somebody else. Wherever such text leaves the program, one of these functions makes it plain text: what it
contains is shown, and nothing of it is executed or interpreted.

* `for_terminal`: no control characters, and nothing that reorders or hides other text
* `for_html`, `for_markdown`, `for_latex`, `for_csv`: as above, and no markup, macros or formulas
* `for_json`: text that is JSON already, which keeps its meaning

>>> for_terminal("\x1b[31mred")
'\\x1b[31mred'
>>> for_csv("=1+1"), for_csv(-1.5), for_csv("-1.5")
("'=1+1", -1.5, '-1.5')
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterable, Sequence
from io import TextIOBase
from typing import Any

__all__ = [
    "as_one_line",
    "code_block",
    "code_span",
    "for_csv",
    "for_html",
    "for_json",
    "for_latex",
    "for_markdown",
    "for_terminal",
    "write_csv",
]

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 control characters except tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # invisible, and those that reorder text
    "\ufff9-\ufffb\ud800-\udfff]"  # annotations, and bytes of a file name that are no text
)
_LINE_BREAK = re.compile(r"[\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~$]")
_MARKDOWN_AT_START = re.compile(r"^(\s*\d*)(?=[-+=#]|(?<=\d)[.)](?:\s|$))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "·": r"$\cdot$",
    "÷": r"$\div$",
    "½": r"$\frac{1}{2}$",
    "β": r"$\beta$",
    "σ": r"$\sigma$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}.get(match[0])
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def for_terminal(text: str) -> str:
    r"""Return text with its control characters written out; tabs and line breaks are kept.

    >>> for_terminal("a\x1b]0;title\x07 \u202eb")
    'a\\x1b]0;title\\x07 \\u202eb'
    """
    return _UNSAFE.sub(_visible, text)


def as_one_line(text: str) -> str:
    r"""Return text as `for_terminal` does, with tabs and line breaks written out as well.

    >>> as_one_line("a\nerror: b")
    'a\\nerror: b'
    """
    return _LINE_BREAK.sub(_visible, for_terminal(text))


def for_html(text: str) -> str:
    """Return text for HTML, between tags or in a quoted attribute. Plotly's labels are HTML as well.

    >>> for_html('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(for_terminal(text))


def for_markdown(text: str) -> str:
    r"""Return text for Markdown, within one paragraph or cell of a table: no markup, HTML or links.

    >>> for_markdown("a*b* <i> [x](y) | 2_3")
    'a\\*b\\* &lt;i&gt; \\[x\\](y) \\| 2\\_3'
    """
    text = _MARKDOWN.sub(lambda match: f"\\{match[0]}", as_one_line(text))
    text = _MARKDOWN_AT_START.sub(r"\1\\", html.escape(text, quote=False))
    # GitHub and the Hub link bare addresses and mention users.
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def code_span(text: str) -> str:
    """Return text as code within a paragraph of Markdown.

    >>> code_span("a`b")
    '`` a`b ``'
    """
    text = as_one_line(text)
    marks = "`" * (_longest_run("`", text) + 1)
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) or "`" in text else ""
    return f"{marks}{space}{text}{space}{marks}"


def code_block(language: str, lines: Sequence[str]) -> str:
    """Return lines as a block of code in Markdown, which none of them can end."""
    text = for_terminal("\n".join(lines))
    marks = "`" * max(3, _longest_run("`", text) + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _longest_run(letter: str, text: str) -> int:
    return max(map(len, re.findall(f"{re.escape(letter)}+", text)), default=0)


def for_latex(text: str) -> str:
    r"""Return text for LaTeX, outside of math.

    >>> for_latex("50% of a_b")
    '50\\% of a\\_b'
    """
    return "".join(_LATEX.get(letter, letter) for letter in as_one_line(text))


def for_csv(value: Any) -> Any:
    r"""Return a cell of a CSV file that no spreadsheet takes for a formula. Values that are not text are kept.

    Text that begins with one of `= + - @`, a tab or a line break gets an apostrophe in front, unless it is a number
    (OWASP, "CSV Injection").

    >>> for_csv("@SUM(A1)"), for_csv("-"), for_csv("a=b"), for_csv(None)
    ("'@SUM(A1)", "'-", 'a=b', None)
    """
    if not isinstance(value, str):
        return value
    guard = value[:1] in tuple("=+-@\t\r\n") and not _NUMBER.fullmatch(value) and value != ""
    return f"{chr(39) * guard}{as_one_line(value)}"


def write_csv(target: TextIOBase, rows: Iterable[Iterable[Any]], *, line_end: str = "\r\n") -> None:
    """Write rows as CSV, each cell as `for_csv` returns it.

    Args:
        target: A file that is open for text, with `newline=""`.
        rows: The rows, headings included.
        line_end: End of each line.
    """
    csv.writer(target, lineterminator=line_end).writerows([for_csv(cell) for cell in row] for row in rows)


def for_json(text: str) -> str:
    r"""Return JSON in which characters that `for_terminal` writes out are escapes. It means the same.

    >>> for_json('{"name": "\x9b1m"}')
    '{"name": "\\u009b1m"}'

    Args:
        text: JSON, in which such characters can occur within strings only.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
