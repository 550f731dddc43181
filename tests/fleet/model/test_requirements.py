"""Requirement strings and versions, beside what the `packaging` library makes of them."""

import pytest

from fleet.model.requirements import (
    Requirement,
    is_prerelease,
    is_project_name,
    is_version,
    normalise_name,
    parse_requirement,
    version_key,
)

packaging_version = pytest.importorskip("packaging.version")
packaging_specifiers = pytest.importorskip("packaging.specifiers")

# In the order of PEP 440.
VERSIONS = [
    "0.9", "1.0.dev1", "1.0a1.dev2", "1.0a1", "1.0a2", "1.0b1", "1.0rc1", "1.0rc2", "1.0", "1.0.post1.dev3",
    "1.0.post1", "1.0.1", "1.1.dev0", "1.1", "1.2.3", "1.10", "2", "2.0.1", "2025.9.16", "1!0.1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aiocoap==0.4.7", Requirement("aiocoap", (), (("==", "0.4.7"),), "")),
        ("  Zope.Interface  >= 5 , < 6 ", Requirement("zope-interface", (), ((">=", "5"), ("<", "6")), "")),
        ("requests", Requirement("requests", (), (), "")),
        ("a[x, Y_z]~=1.2", Requirement("a", ("x", "y-z"), (("~=", "1.2"),), "")),
        ("a (>=1.0)", Requirement("a", (), ((">=", "1.0"),), "")),
        ("a==1.*", Requirement("a", (), (("==", "1.*"),), "")),
        ("a===legacy-1", Requirement("a", (), (("===", "legacy-1"),), "")),
        ("b>1; extra == 'x'", Requirement("b", (), ((">", "1"),), "extra == 'x'")),
    ],
)
def test_a_requirement_is_taken_apart(text, expected):
    assert parse_requirement(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "==1", "-r x.txt", "--pre", "a b", "a=1", "a==", "a==x y", "a>=1.*", "a@http://x", "git+https://x", "./a",
     "a==1,", "a[b", "-a", "a-", "ü==1", "a==1 2", "a\n==1\nb"],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(text):
    with pytest.raises(ValueError, match="write it as"):
        parse_requirement(text)


def test_a_requirement_is_bounded_and_spaces_in_it_cost_nothing():
    assert parse_requirement("a" + " " * 1000 + "==1") == parse_requirement("a==1")
    with pytest.raises(ValueError, match="longer than 1024 characters"):
        parse_requirement("a" + " " * 1024 + "==1")


def test_versions_are_ordered_as_packaging_orders_them():
    assert sorted(VERSIONS, key=packaging_version.Version) == VERSIONS
    assert sorted(VERSIONS[7:] + VERSIONS[:7], key=version_key) == VERSIONS
    for version in VERSIONS:
        assert is_prerelease(version) == packaging_version.Version(version).is_prerelease


@pytest.mark.parametrize("spelling", ["1.0", "v1.0", "1.0.0", "1", " 1.0 ", "1.0+local.1"])
def test_spellings_of_a_version_are_the_same(spelling):
    assert version_key(spelling) == version_key("1.0")


@pytest.mark.parametrize("text", ["", "newest", "1.x", "1..0", "1.0-", "==1"])
def test_what_is_no_version_is_known(text):
    assert version_key(text) is None
    assert not is_version(text)


@pytest.mark.parametrize(
    "specifier",
    ["==1.0", "!=1.0", ">=1.0", "<=1.0", ">1.0", "<1.0", "<1.1", "~=1.0", "~=1.0.1", "==1.*", "!=1.*", "==1.0.*",
     ">=1.0a1", "<1.0rc2", ">=1,<2", "===1.0", ">1.0.post1", "==1!0.1", "<=2"],
)  # fmt: skip
def test_specifiers_allow_what_packaging_allows(specifier):
    theirs = packaging_specifiers.SpecifierSet(specifier)
    ours = parse_requirement("a" + specifier)

    for version in VERSIONS:
        assert ours.allows(version) == theirs.contains(version, prereleases=True), version


@pytest.mark.parametrize(
    ("text", "newest"),
    [
        ("a", "1!0.1"),
        ("a<2", "1.10"),
        ("a==1.0.*", "1.0.1"),
        ("a<1.0", "0.9"),
        ("a>=1.0b1,<1.0rc2", "1.0rc1"),
        ("a==7", None),
    ],
)
def test_the_newest_allowed_version_is_chosen_and_pre_releases_last(text, newest):
    assert parse_requirement(text).newest(VERSIONS) == newest


def test_where_there_are_but_pre_releases_the_newest_is_taken():
    assert parse_requirement("a").newest(["1.0a1", "1.0a2"]) == "1.0a2"


def test_names_are_compared_as_pep_503_says():
    assert normalise_name("Zope.-_Interface") == "zope-interface"
    assert is_project_name("a.b_c-9")
    assert not is_project_name("-a")
    assert not is_project_name("a b")
