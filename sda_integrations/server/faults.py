"""Faults that nobody foresaw: a fixed reply for the client, the traceback for the log. Pure ASGI."""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from sda_integrations.server.replies import WatchedSend, internal_error

logger = logging.getLogger(__name__)


class HideFaults:
    """Whatever an application raises becomes a reply that says nothing of it, or the end of its stream.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or end what was begun of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watched = WatchedSend(send)
        try:
            await self._app(scope, receive, watched)
        except Exception:  # whatever it is: it goes to the log, and nothing of it to the client
            logger.exception("Request %s failed.", scope["state"]["request_id"])
            if not await watched.end_with(internal_error(), scope, receive):
                raise  # the reply has no end, so the connection gets one
