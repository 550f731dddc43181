"""Merge patches: the RFC's examples, and that what is made leads from one document to the other."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.model.mergepatch import make_patch, merge_patch

# RFC 7396, Appendix A, all of it: original, patch, result.
EXAMPLES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

# RFC 7396 §3: the example that is told at length.
ARTICLE = {
    "title": "Goodbye!",
    "author": {"givenName": "John", "familyName": "Doe"},
    "tags": ["example", "sample"],
    "content": "This will be unchanged",
}
PATCH = {
    "title": "Hello!",
    "phoneNumber": "+01-123-456-7890",
    "author": {"familyName": None},
    "tags": ["example"],
}
RESULT = {
    "title": "Hello!",
    "author": {"givenName": "John"},
    "tags": ["example"],
    "content": "This will be unchanged",
    "phoneNumber": "+01-123-456-7890",
}

scalars = st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=2)
lists = st.lists(scalars | st.none(), max_size=2)
names = st.sampled_from("abcd")
documents = st.recursive(
    st.dictionaries(names, scalars | lists), lambda inner: st.dictionaries(names, inner | scalars), max_leaves=8
)
anything = st.recursive(scalars | st.none(), lambda inner: st.lists(inner) | st.dictionaries(names, inner))


@pytest.mark.parametrize(("original", "patch", "result"), [*EXAMPLES, (ARTICLE, PATCH, RESULT)])
def test_the_rfcs_examples(original, patch, result):
    before = copy.deepcopy((original, patch))

    assert merge_patch(original, patch) == result
    assert (original, patch) == before, "what was given was changed"


def test_what_changed_in_the_rfcs_example_is_its_patch():
    assert make_patch(ARTICLE, RESULT) == PATCH


@given(documents, documents)
def test_a_patch_leads_from_one_document_to_the_other(before, after):
    merged = merge_patch(before, make_patch(before, after))

    assert merged == after
    assert make_patch(merged, after) == {}


@given(documents, documents)
def test_a_patch_once_more_changes_nothing(before, after):
    patch = make_patch(before, after)

    assert merge_patch(after, patch) == after


@given(anything, anything)
def test_any_document_takes_any_patch_and_an_object_comes_of_an_object(target, patch):
    merged = merge_patch(target, patch)

    assert isinstance(merged, dict) == isinstance(patch, dict)


def test_what_is_the_same_is_no_change_and_what_only_looks_so_is_one():
    assert make_patch({"a": 1, "b": {"c": True}, "d": [1]}, {"a": 1, "b": {"c": True}, "d": [1]}) == {}
    assert make_patch({"a": 1, "d": [True]}, {"a": True, "d": [1]}) == {"a": True, "d": [1]}
    assert make_patch({"b": {"c": True, "d": False}}, {"b": {"c": False, "d": False}}) == {"b": {"c": False}}
