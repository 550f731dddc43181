"""Merge patches: what changed in a document, as a document (RFC 7396).

A patch has the fields that are new or different, null for those that went, and a patch in the place of an object that
changed within. So a field whose value is null cannot be patched in; documents are written without such fields.
"""

from typing import Any

from .formats import encode


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` applied (RFC 7396 §2); neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def make_patch(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the patch that makes `after` of `before`; `after` holds no null, but within lists."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        known = before.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            nested = make_patch(known, value)
            if nested:
                patch[name] = nested
        elif name not in before or encode(known) != encode(value):  # as written: True is not 1 there
            patch[name] = value
    return patch
