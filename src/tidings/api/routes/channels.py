"""Channels: which are installed and configured, and a test message over one of them."""

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from tidings.api.context import RouteContext
from tidings.channels.channel_test import send_test_message
from tidings.model.outcome import Outcome
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel


class ChannelResponse(ResponseModel):
    """An installed channel."""

    name: str
    #: what its contact points are called
    contact_noun: str
    #: whether messages can be sent
    configured: bool
    #: the setting that configures it; null if it needs none
    setting: str | None
    #: attempts per delivery
    max_attempts: int


class ChannelsResponse(ResponseModel):
    """All installed channels."""

    items: list[ChannelResponse]


class ChannelTestBody(RequestModel):
    """Where a test message goes: an address, or a user id for a channel without contact points."""

    address: str = Field(min_length=1, max_length=2_000)


class ChannelTestResponse(ResponseModel):
    """The outcome of a test message."""

    outcome: Literal["delivered", "deferred", "refused", "gone", "uncertain"]
    why: str
    status: int | None
    provider: str | None
    message_id: str | None


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /channels."""
    routes = APIRouter(tags=["channels"], route_class=JsonRoute)
    runtime = context.runtime

    @routes.get("/channels", dependencies=[Depends(context.require_scopes("read"))])
    async def list_channels() -> ChannelsResponse:
        """List the installed channels."""
        return ChannelsResponse(
            items=[
                ChannelResponse(
                    name=name,
                    contact_noun=plugin.traits.contact_noun,
                    configured=name in runtime.channels,
                    setting=plugin.traits.setting,
                    max_attempts=plugin.traits.max_attempts,
                )
                for name, plugin in runtime.plugins.items()
            ]
        )

    @routes.post("/channels/{channel}/test", dependencies=[Depends(context.require_scopes("admin"))])
    async def send_test(channel: str, body: ChannelTestBody) -> ChannelTestResponse:
        """Send a test message to an address, and return what the provider answered. No notification is stored."""
        outcome = await send_test_message(
            channel,
            body.address,
            plugins=runtime.plugins,
            channels=runtime.channels,
            clock=context.clock,
            settings=runtime.settings,
        )
        return _to_response(outcome)

    return routes


def _to_response(outcome: Outcome) -> ChannelTestResponse:
    return ChannelTestResponse.model_validate(
        {
            "outcome": outcome.label,
            "why": outcome.why,
            "status": outcome.status,
            "provider": getattr(outcome, "provider", None),
            "message_id": getattr(outcome, "message_id", None),
        }
    )
