"""The application: routes, and around them what every request goes through."""

from collections.abc import Collection

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sda_engine.engine import SteeringEngine
from sda_engine.errors import SDAError
from sda_engine.settings import check_type
from sda_engine.wire.requests import ChatRequest, CompletionRequest, TokenizeRequest
from sda_integrations.server.answer_routes import answer_routes
from sda_integrations.server.draining import DrainRequests
from sda_integrations.server.faults import HideFaults
from sda_integrations.server.foreign_pages import RefuseForeignPages
from sda_integrations.server.keys import RequireKey
from sda_integrations.server.limits import LimitRequests
from sda_integrations.server.openapi import describe_bodies
from sda_integrations.server.plain_routes import plain_routes
from sda_integrations.server.records import RecordRequests
from sda_integrations.server.replies import RefusalError, error_response, sda_error_response
from sda_integrations.server.request_ids import REQUEST_ID, RequestIds
from sda_integrations.server.service import Service
from sda_integrations.server.settings import ServerSettings


def make_app(engine: SteeringEngine, settings: ServerSettings = ServerSettings()) -> FastAPI:  # noqa: B008 - frozen
    """The ASGI application that offers an engine over HTTP.

    The engine stays the caller's, who closes it after the server. `app.state.service` holds what the routes work with.

    Args:
        engine: what answers.
        settings: who may ask, and by what it answers where a request does not say.

    Raises:
        ConfigError: settings do not go together.
    """
    check_type("settings", settings, ServerSettings)
    service = Service.of(engine, settings)
    app = FastAPI(
        title="sda serve",
        description="OpenAI's interface with steered decoding in the field `sda`.",
        docs_url=None,  # these pages would load scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    routers = (answer_routes(service), plain_routes(service))
    for router in routers:
        app.include_router(router)
    describe_bodies(app, (ChatRequest, CompletionRequest, TokenizeRequest))
    _answer_errors(app)
    _surround(app, service, [_path_of(route) for router in routers for route in router.routes])
    return app


def _path_of(route: BaseRoute) -> str:
    assert isinstance(route, Route), "there are no others"
    return route.path


def _surround(app: FastAPI, service: Service, paths: Collection[str]) -> None:
    """What every request goes through; the last one added is the outermost."""
    app.add_middleware(LimitRequests, limits=service.settings.limits)
    app.add_middleware(RequireKey, keys=service.keys)
    if not service.keys.needed:
        app.add_middleware(RefuseForeignPages, origins=service.settings.cors_origins)
    app.add_middleware(DrainRequests, draining=service.draining)
    if origins := service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(HideFaults)
    app.add_middleware(RecordRequests, metrics=service.metrics, paths=paths)
    app.add_middleware(RequestIds)


def _answer_errors(app: FastAPI) -> None:
    """Errors that are known get replies that tell of them, in OpenAI's shape."""

    @app.exception_handler(SDAError)
    async def tell_error(request: Request, error: SDAError) -> Response:
        return sda_error_response(error, request.scope["state"]["request_id"])

    @app.exception_handler(RefusalError)
    async def tell_refusal(request: Request, refusal: RefusalError) -> Response:
        return refusal.response

    @app.exception_handler(RequestValidationError)
    async def tell_invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(
            400, "The request cannot be read: see /openapi.json for what it must be.", code="invalid_value"
        )

    @app.exception_handler(HTTPException)
    async def tell_http_error(request: Request, error: HTTPException) -> Response:
        text = {
            404: "There is no such route. /openapi.json lists those that there are; those of OpenAI begin with /v1.",
            405: f"This route does not take {request.method}.",
        }.get(error.status_code, "The request cannot be answered.")
        return error_response(error.status_code, text, code=_HTTP_CODES.get(error.status_code), headers=error.headers)


_HTTP_CODES = {404: "route_not_found", 405: "method_not_allowed"}
