"""Errors as problem documents (RFC 9457)."""

import pytest

from tidings import errors
from tidings.api.http.problem_details import STATUS_BY_ERROR, PayloadTooLarge, error_headers, http_status, problem_for
from tidings.errors import (
    BackendError,
    ConfigError,
    Conflict,
    FieldError,
    Forbidden,
    NotFound,
    RateLimited,
    TidingsError,
    Unauthenticated,
    ValidationFailed,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValidationFailed("x"), 422),
        (ValidationFailed("x", code="malformed_json"), 400),
        (Unauthenticated("x"), 401),
        (Forbidden("x"), 403),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (RateLimited("x", retry_after=1), 429),
        (PayloadTooLarge("x"), 413),
        (BackendError("x"), 503),
        (ConfigError("TIDINGS_X", "x"), 500),
    ],
)
def test_status(error: TidingsError, status: int) -> None:
    assert http_status(error) == status
    assert problem_for(error).status == status


def test_every_error_class_is_in_the_table() -> None:
    classes = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TidingsError)}
    assert classes <= set(STATUS_BY_ERROR)


def test_an_error_of_a_pack_has_the_status_of_its_class() -> None:
    class SoldOut(Conflict):
        code = "sold_out"

    assert http_status(SoldOut("x")) == 409
    assert problem_for(SoldOut("x")).code == "sold_out"


def test_errors_name_fields() -> None:
    problem = problem_for(
        ValidationFailed("two things", field_errors=(FieldError("a", "b"), FieldError("c[1]", "d"))), "/api/x"
    )
    assert problem.errors == [{"field": "a", "message": "b"}, {"field": "c[1]", "message": "d"}]
    assert problem.title == "Unprocessable Entity"
    assert problem.instance == "/api/x"


@pytest.mark.parametrize("error", [RateLimited("x", retry_after=2.2), BackendError("x", retry_after=2.2)])
def test_retry_after_is_rounded_up(error: TidingsError) -> None:
    assert error_headers(error) == {"Retry-After": "3"}


def test_an_unauthenticated_response_has_a_challenge() -> None:
    assert error_headers(Unauthenticated("x")) == {"WWW-Authenticate": 'Bearer realm="tidings"'}
    wrong = error_headers(Unauthenticated("x", code="invalid_key"))
    assert wrong == {"WWW-Authenticate": 'Bearer realm="tidings", error="invalid_token"'}
