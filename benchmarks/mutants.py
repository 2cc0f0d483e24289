"""Mutates right functions mechanically, audits each mutant, and lists those that nothing was found
in.

    python benchmarks/mutants.py [NAME ...]

A mutant changes one operator, one number, one name of an argument, or leaves out one call. It
survives where the audit finds no error. Survivors are equivalent (they compute the same), right in
another way (another estimator), or a check that is missing; which one is for a person to say, and
so each is printed with what it was taken for. Those that are left now:

- equivalent: the sign of k2's difference, axes counted from the other end, a scalar transposed,
  what a mask covers anyway, the default of a coefficient, which is given, a baseline, which changes
  no mean;
- right in another way: another clamp, lambda, divisor or clip, or none; k1 for k3; a ratio without
  its exponential, whose gradient on fresh samples is the same;
- a warning only: an older policy, or the rollout's, that is given and weighs nothing.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
UNWRAPPED = {"detach", "exp", "expm1", "masked_fill", "clamp", "square", "where", "log_softmax"}
"""Calls that are replaced by what they are called on."""


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
                yield f"{label}: {before} -> {after}", other


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


def main(names: list[str]) -> None:
    """Print the survivors of each function, and how many were caught."""
    import right_functions

    import klbench

    warnings.simplefilter("ignore")
    functions = {
        f: "kl"
        for f in (*right_functions.PER_TOKEN, *right_functions.LOGITS)
        if inspect.isfunction(f)
    }
    functions |= dict.fromkeys(right_functions.LOSSES, "loss")
    caught = refused = 0
    survivors = []
    for function, used_as in functions.items():
        if names and function.__name__ not in names:
            continue
        source = ast.parse(textwrap.dedent(inspect.getsource(function)))
        definition = source.body[0]
        assert isinstance(definition, ast.FunctionDef)
        for label, tree in mutants(definition):
            try:
                found = klbench.audit(made(function, tree), used_as=used_as)
            except (klbench.ConfigError, SyntaxError):
                refused += 1
                continue
            if found.errors:
                caught += 1
            else:
                of = f"{found.scale:g} {found.identified}, {found.reduction}"
                survivors.append(
                    f"{function.__name__}: {label}   [{of}, gradient"
                    f" {found.gradient and found.gradient.matches}]"
                )
    print(*survivors, sep="\n")
    print(f"{caught} caught, {refused} cannot be called, {len(survivors)} without an error")


if __name__ == "__main__":
    main(sys.argv[1:])
