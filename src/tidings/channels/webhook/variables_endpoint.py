"""Asks endpoints of the host product for the variables of recurring notifications, signed as webhooks are."""

from collections.abc import Sequence

import msgspec

from tidings.channels.http.exchange import Exchange, HttpResponse
from tidings.channels.http.origin import Origin, TrustedHosts, check_url
from tidings.channels.http.transport import MAX_BODY, HttpTransport
from tidings.channels.webhook.signing import sign_message
from tidings.errors import ValidationFailed
from tidings.model.recurring import NothingToSend, ResolvedVariables, SourceFailed, SourceRequest, SourceResult
from tidings.ports.clock import Clock
from tidings.schemas.json_body import parse_json

#: `type` of the body
REQUEST_TYPE = "recurring.variables"
_NO_CONTENT = 204


class SignedVariablesEndpoints:
    """Implements `ports.recurring.VariablesEndpoints`."""

    def __init__(
        self,
        transport: HttpTransport | None,
        clock: Clock,
        *,
        trusted_hosts: TrustedHosts,
        keys: Sequence[bytes],
        secret_setting: str,
        trust_setting: str,
    ) -> None:
        """Each of `keys` signs. transport: None = there is no key; nothing is called, and errors name the setting.

        trust_setting: that names `trusted_hosts`.
        """
        self._transport = transport
        self._clock = clock
        self._trusted_hosts = trusted_hosts
        self._keys = keys
        self._secret_setting = secret_setting
        self._trust_setting = trust_setting

    def check_url(self, url: str, field: str) -> None:
        self._prepare(url, field)

    async def fetch(self, url: str, request: SourceRequest) -> SourceResult:
        try:
            # again: the settings of the operator may have changed since it was stored
            transport, origin = self._prepare(url, "variablesUrl")
        except ValidationFailed as error:
            return SourceFailed(error.message)
        now = self._clock.now()
        body = msgspec.json.encode({"type": REQUEST_TYPE, "timestamp": now, "data": _to_data(request)})
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **sign_message(self._keys, request.run_id, now, body),
        }
        return _read_answer(await transport.post(origin, url, headers, body))

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.close()

    def _prepare(self, url: str, field: str) -> tuple[HttpTransport, Origin]:
        if self._transport is None:
            raise ValidationFailed.for_field(field, f"calls must be signed: set {self._secret_setting}")
        return self._transport, check_url(url, field, self._trusted_hosts, setting=self._trust_setting)


def _to_data(request: SourceRequest) -> dict[str, object]:
    return {
        "name": request.name,
        "templateCode": request.template_code,
        "runId": request.run_id,
        "scheduledAt": request.scheduled_at,
        "timezones": request.timezones,
    }


def _read_answer(exchange: Exchange) -> SourceResult:
    """Return what an endpoint answered: `{"variables": {…}}`, or 204 for nothing to send."""
    if not isinstance(exchange, HttpResponse):
        return SourceFailed(exchange.why)
    if exchange.status == _NO_CONTENT:
        return NothingToSend()
    if exchange.status != 200:
        return SourceFailed(f"the endpoint answered {exchange.status}, not 200 or 204")
    if len(exchange.body) >= MAX_BODY:
        return SourceFailed(f"the endpoint answered with {MAX_BODY} bytes or more")
    try:
        answer = parse_json(exchange.body)
    except ValidationFailed as error:
        return SourceFailed(f"the answer of the endpoint: {error.message}")
    variables = answer.get("variables") if isinstance(answer, dict) else None
    if not isinstance(variables, dict):
        return SourceFailed('the endpoint must answer {"variables": {…}}, or 204 for nothing to send')
    return ResolvedVariables(variables)
