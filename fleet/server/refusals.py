"""Outcomes of commands and pages of queries that are no success, as the answers to the requests that led to them."""

from __future__ import annotations

from typing import Any

from fleet.model.answers import refusal
from fleet.server import commands
from fleet.server.commands import Outcome
from fleet.server.queries import Page
from minicoap.codec import codes
from minicoap.core.request import Request, Response

_STATUS_CODES = {
    commands.NOT_FOUND: codes.NOT_FOUND,
    commands.ILLEGAL: codes.CONFLICT,
    commands.INVALID: codes.UNPROCESSABLE_ENTITY,
    commands.PRECONDITION: codes.PRECONDITION_FAILED,
    commands.UNAVAILABLE: codes.SERVICE_UNAVAILABLE,
}


def refuse_outcome(request: Request, outcome: Outcome) -> Response:
    """Return what a command that was not applied leads to."""
    code = _STATUS_CODES[outcome.status]
    return refusal(request, code, outcome.detail, outcome.field, outcome.state, outcome.legal)


def refuse_page(request: Request, page: Page[Any]) -> Response:
    """Return what a query that was not answered leads to."""
    field = "after" if page.status == commands.INVALID else None
    return refusal(request, _STATUS_CODES[page.status], page.detail, field)
