"""Errors as problem documents."""

import pytest

from tidings import errors
from tidings.api.problems import STATUS, TooLarge, headers_of, problem_of, status_of
from tidings.errors import (
    BackendError,
    ConfigError,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    TidingsError,
    Unauthenticated,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("x"), 422),
        (Invalid("x", code="malformed_json"), 400),
        (Unauthenticated("x"), 401),
        (Forbidden("x"), 403),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (RateLimited("x", retry_after=1), 429),
        (TooLarge("x"), 413),
        (BackendError("x"), 503),
        (ConfigError("TIDINGS_X", "x"), 500),
    ],
)
def test_status(error: TidingsError, status: int) -> None:
    assert status_of(error) == status
    assert problem_of(error).status == status


def test_every_error_class_is_in_the_table() -> None:
    classes = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TidingsError)}
    assert classes <= set(STATUS)


def test_an_error_of_a_pack_has_the_status_of_its_class() -> None:
    class SoldOut(Conflict):
        code = "sold_out"

    assert status_of(SoldOut("x")) == 409
    assert problem_of(SoldOut("x")).code == "sold_out"


def test_faults_name_fields() -> None:
    problem = problem_of(Invalid("two things", faults=(Fault("a", "b"), Fault("c[1]", "d"))), "/api/x")
    assert problem.errors == [{"field": "a", "message": "b"}, {"field": "c[1]", "message": "d"}]
    assert problem.title == "Unprocessable Entity"
    assert problem.instance == "/api/x"


@pytest.mark.parametrize("error", [RateLimited("x", retry_after=2.2), BackendError("x", retry_after=2.2)])
def test_when_to_come_back_is_rounded_up(error: TidingsError) -> None:
    assert headers_of(error) == {"Retry-After": "3"}


def test_who_are_you_says_how_to_answer() -> None:
    assert headers_of(Unauthenticated("x")) == {"WWW-Authenticate": 'Bearer realm="tidings"'}
    wrong = headers_of(Unauthenticated("x", code="invalid_key"))
    assert wrong == {"WWW-Authenticate": 'Bearer realm="tidings", error="invalid_token"'}
