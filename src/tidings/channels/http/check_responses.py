"""What an answer to a check of `tidings doctor` says about a server. Pure."""

from tidings.channels.http.exchange import Exchange, HttpResponse
from tidings.model.check import CheckResult


def read_credentials_response(check: str, exchange: Exchange, setting: str) -> CheckResult:
    """Return the result of a request with credentials. setting: names them."""
    if not isinstance(exchange, HttpResponse):
        return CheckResult("problem", check, f"{exchange.why}; check the host in {setting}, and the network")
    status = exchange.status
    if 200 <= status < 300:
        return CheckResult("ok", check, "accepts the account and its secret")
    if status in (401, 403):
        message = f"answered {status}: it refuses the account or its secret; correct {setting}"
        return CheckResult("problem", check, message)
    return CheckResult("warning", check, f"answered {status}, so the account could not be checked; send a test message")


def read_endpoint_response(check: str, exchange: Exchange, setting: str) -> CheckResult:
    """Return the result of a request without an event to an endpoint that takes events. setting: its URL."""
    if not isinstance(exchange, HttpResponse):
        return CheckResult("problem", check, f"{exchange.why}; check {setting}, and the network")
    status = exchange.status
    if 300 <= status < 400:
        message = f"answered {status}: redirects are not followed; set {setting} to the final URL"
        return CheckResult("problem", check, message)
    if status in (404, 410) or status >= 500:
        return CheckResult("warning", check, f"answered {status}; check the path in {setting}")
    return CheckResult("ok", check, f"can be reached (it answered {status} to a request without an event)")
