"""Mutates right functions mechanically, audits each mutant, and lists those that nothing was found
in and that nobody has looked at yet.

    python benchmarks/mutants.py [NAME ...]

A mutant changes one operator, one number, one name of an argument, or leaves out one call. It
survives where the audit finds no error. ``mutants.yaml`` says of each survivor what it is:

- equivalent: it computes the same, or has the same expected gradient;
- another: right in another way, another estimator, clamp, divisor, clip or baseline;
- warning: a fault of which the audit warns.

A check that is missing has no class: it is to be written. The command ends with 1 where a survivor
has no rule, where one that should be warned of is not, or, unless functions are named, where a rule
fits no survivor.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "audit"))

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.USub: (ast.UAdd,),
    ast.Invert: (),
}
CLASSES = ("equivalent", "another", "warning")
UNWRAPPED = {"detach", "exp", "expm1", "masked_fill", "clamp", "square", "where", "log_softmax"}
"""Calls that are replaced by what they are called on."""


@dataclass(frozen=True)
class Rule:
    """Survivors of one class and for one reason.

    Parameters
    ----------
    kind
        One of ``CLASSES``.
    reason
        Why they are not caught.
    mutants
        Their labels, in which ``*`` stands for anything.
    """

    kind: str
    reason: str
    mutants: tuple[str, ...]

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """The labels as regular expressions."""
        return {
            each: re.compile(re.escape(each).replace(r"\*", ".*"), re.DOTALL)
            for each in self.mutants
        }


def rules() -> list[Rule]:
    """Return what is said of survivors."""
    found = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    result = [Rule(each["class"], each["reason"], tuple(each["mutants"])) for each in found]
    assert {each.kind for each in result} <= set(CLASSES)
    return result


def mutants(tree: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield what was changed, and the function with one change."""
    nodes = list(ast.walk(tree))
    for index, node in enumerate(nodes):
        for label, change in changes(node, [arg.arg for arg in tree.args.args]):
            other = copy.deepcopy(tree)
            same = list(ast.walk(other))[index]
            before = ast.unparse(same)
            change(same)
            after = ast.unparse(same)
            if before != after:
                line = getattr(node, "lineno", tree.lineno) - tree.lineno
                yield f"{label} in line {line}: {before} -> {after}", other


def changes(node: ast.AST, names: list[str]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Yield the changes of one node, each made in place."""
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        for kind in OPERATORS.get(type(node.op), ()):
            yield "operator", lambda n, kind=kind: setattr(n, "op", kind())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div):
        yield "order", lambda n: n.__dict__.update(left=n.right, right=n.left)
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        yield "constant", lambda n: setattr(n, "value", n.value + 1)
        if node.value:
            yield "constant", lambda n: setattr(n, "value", -n.value)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        for name in names:
            if name != node.id and ("log" in name) == ("log" in node.id):
                yield "argument", lambda n, name=name: setattr(n, "id", name)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in UNWRAPPED
    ):
        owner = node.func.value
        taken = node.args[0] if isinstance(owner, ast.Name) and owner.id == "torch" else owner
        yield "left out", lambda n, taken=taken: _become(n, taken)
    if isinstance(node, ast.Return) and node.value is not None:
        yield (
            "detached",
            lambda n: setattr(
                n, "value", ast.Call(ast.Attribute(n.value, "detach", ast.Load()), [], [])
            ),
        )
        yield "transposed", lambda n: setattr(n, "value", ast.Attribute(n.value, "mT", ast.Load()))


def _become(node: ast.Call, other: ast.expr) -> None:
    node.__dict__.update(
        func=ast.Name("(lambda x: x)", ast.Load()), args=[copy.deepcopy(other)], keywords=[]
    )


def made(function: Callable[..., Any], tree: ast.FunctionDef) -> Callable[..., Any]:
    """Return the function that a changed tree defines, among the names of its module."""
    space = dict(function.__globals__)
    exec(
        compile(ast.unparse(ast.fix_missing_locations(tree)), "mutant", "exec"), space
    )  # the repository's own code
    result: Callable[..., Any] = space[tree.name]
    return result


def functions(names: Sequence[str]) -> dict[Callable[..., Any], str]:
    """Return the functions that are mutated, and what each is audited as."""
    import right_functions

    found = {
        f: "kl"
        for f in (*right_functions.PER_TOKEN, *right_functions.LOGITS)
        if inspect.isfunction(f)
    }
    found |= dict.fromkeys(right_functions.LOSSES, "loss")
    return {f: used_as for f, used_as in found.items() if not names or f.__name__ in names}


def main(names: list[str]) -> int:
    """Print the survivors that no rule knows, how many were caught, and what the others are."""
    import klbench

    warnings.simplefilter("ignore")
    known, used, counts, new = rules(), set(), Counter[str](), 0
    for function, used_as in functions(names).items():
        source = ast.parse(textwrap.dedent(inspect.getsource(function)))
        definition = source.body[0]
        assert isinstance(definition, ast.FunctionDef)
        for label, tree in mutants(definition):
            try:
                found = klbench.audit(made(function, tree), used_as=used_as)
            except (klbench.ConfigError, SyntaxError):
                counts["cannot be called"] += 1
                continue
            if found.errors:
                counts["caught"] += 1
                continue
            full = f"{function.__name__}: {label}"
            fit = [(r, x) for r in known for x, it in r.patterns.items() if it.fullmatch(full)]
            used |= {pattern for _, pattern in fit}
            warned = bool(found.of("warning"))
            if fit and (warned or fit[0][0].kind != "warning"):
                counts[fit[0][0].kind] += 1
                continue
            new += 1
            of = f"{found.scale:g} {found.identified}, {found.reduction}"
            matches = found.gradient and found.gradient.matches
            words = "a warning is missing" if fit else "new"
            print(f"{words}: {full}   [{of}, gradient {matches}, warned: {warned}]", flush=True)
    unused = [] if names else [x for rule in known for x in rule.mutants if x not in used]
    for each in unused:
        print(f"no survivor fits: {each}")
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f", {new} new")
    return int(bool(new or unused))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
