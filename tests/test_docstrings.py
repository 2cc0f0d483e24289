"""Docstrings open with a verb ("Return ...") or a noun with its article, which no rule of ruff's
checks.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import klbench

PACKAGE = Path(klbench.__file__).parent
QUESTIONS = {"What", "Of", "Where", "Whether", "How", "Why"}
MOST = 0
"""The number of docstrings that may open with one of these words."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings of a module, of its classes and functions, and of
    its constants.
    """
    for node in ast.walk(ast.parse(source)):
        body = node.body if isinstance(node, DOCUMENTED) else []
        for first, statement in zip([None, *body], body, strict=False):
            documented = first is None or isinstance(first, ast.Assign | ast.AnnAssign)
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if documented:
                    yield statement.lineno, text


def questions(source: str) -> list[tuple[int, str]]:
    found = [(line, text.partition("\n")[0]) for line, text in docstrings(source)]
    return [(line, first) for line, first in found if re.split(r"\W", first)[0] in QUESTIONS]


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in questions(path.read_text(encoding="utf-8"))
    ]
    assert len(found) <= MOST, (
        "docstrings must open with a verb or a noun with its article:\n" + "\n".join(found)
    )


def test_a_question_is_found_wherever_it_stands() -> None:
    source = (
        '"""What."""\nX = 1\n"""Of X."""\n\n\nclass A:\n    """Where."""\n\n    def f(self):\n     '
        '   """Whether."""\n'
    )
    assert [line for line, _ in questions(source)] == [1, 3, 7, 10]
    assert not questions('"""Return it."""\n\n\ndef f():\n    """The value."""\n    "What"\n')
