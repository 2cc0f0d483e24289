import sys
import textwrap

import pytest

from klbench.registry import Registry, unknown
from klbench.types import ConfigError


@pytest.fixture
def registry() -> Registry[object]:
    made: Registry[object] = Registry("fruit", "nothing")
    made._discovered = True
    made.add("apple", "an apple", aliases=("pomme", "apfel"))
    made.add("pear", "a pear")
    made.add_family("slices", lambda name, number: (name, number), default=4.0, aliases=("cuts",))
    return made


def test_names_come_in_order_and_without_aliases(registry) -> None:
    assert registry.names() == ["apple", "pear", "slices"]


def test_an_alias_is_the_item(registry) -> None:
    assert registry.get("pomme") is registry.get("apfel") is registry.get("apple")


def test_add_gives_the_item_back(registry) -> None:
    item = object()
    assert registry.add("plum", item) is item
    assert registry.get("plum") is item


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("slices", ("slices", 4.0)),
        ("slices:2", ("slices:2", 2.0)),
        ("slices:-1e3", ("slices:-1e3", -1000.0)),
        ("cuts:0.5", ("slices:0.5", 0.5)),
    ],
)
def test_a_family_takes_its_number_or_the_default(registry, asked, made) -> None:
    assert registry.get(asked) == made


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "appel",
            r"^unknown fruit 'appel'; did you mean 'apple'\? Available: apple, pear, slices$",
        ),
        ("xyzzy", r"^unknown fruit 'xyzzy'; available: apple, pear, slices$"),
        ("", r"^unknown fruit ''; available: apple, pear, slices$"),
        ("pear:3", r"^fruit 'pear:3': pear takes no number$"),
        ("pomme:3", r"apple takes no number$"),
        ("slices:", r"^fruit 'slices:': expected a number after the colon, got ''$"),
        ("slices:many", r"^fruit 'slices:many': expected a number after the colon, got 'many'$"),
    ],
)
def test_an_error_says_what_came_and_what_there_is(registry, asked, message) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.get(asked)


@pytest.mark.parametrize(
    ("name", "aliases"), [("apple", ()), ("pomme", ()), ("plum", ("pear",)), ("plum", ("apfel",))]
)
def test_no_name_is_given_twice(registry, name, aliases) -> None:
    with pytest.raises(ValueError, match=r"^fruit '\w+' is registered twice$"):
        registry.add(name, object(), aliases)


def test_a_familys_own_complaint_is_passed_on(registry) -> None:
    def make(name, number):
        raise ConfigError("too many")

    registry.add_family("cakes", make, default=1.0)
    with pytest.raises(ConfigError, match=r"^too many$"):
        registry.get("cakes")


def test_unknown_is_one_line() -> None:
    assert "\n" not in str(unknown("fruit", "kiwi", ["apple"]))


def test_modules_are_found_but_for_the_private_ones(tmp_path, monkeypatch) -> None:
    package = tmp_path / "orchard"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from klbench.registry import Registry\nregistry = Registry('fruit', __name__)\n"
    )
    item = textwrap.dedent("""
        from orchard import registry
        registry.add({name!r}, {name!r})
    """)
    for module in ("apple", "pear", "_secret"):
        (package / f"{module}.py").write_text(item.format(name=module))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        import orchard

        assert "orchard.apple" not in sys.modules  # found when first asked for
        assert orchard.registry.names() == ["apple", "pear"]
        assert orchard.registry.get("pear") == "pear"
        assert "orchard._secret" not in sys.modules
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "orchard"]:
            del sys.modules[name]
