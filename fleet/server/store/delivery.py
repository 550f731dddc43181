"""Delivery: what a commit completed is told to those who wait for it, in the owner's thread."""

from functools import partial
from typing import Any, Callable, Iterable

from .interface import Post

Completion = tuple[Callable[[Any], None], Any]


def deliver(post: Post, completions: Iterable[Completion]) -> None:
    """Call each callable with its result. Should one raise, its error goes up and the others are posted anew."""
    rest = iter(completions)
    try:
        for done, result in rest:
            done(result)
    finally:
        left = list(rest)
        if left:
            post(partial(deliver, post, left))
