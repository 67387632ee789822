"""What an error says of kind and words, and which answers a kept connection may bring."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from simplejson import RawJSON

from indodana import AnswerUnreadable, ContradictingAnswer, IndodanaError, OutcomeUnknown, Refused
from tests.transport.upstream import PAID, World, cancel_on, cancellation, http, sends, status_of


class RawNumber(RawJSON):
    """A number as it is spelled."""

    def __str__(self) -> str:
        return str(self.encoded_json)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def refused(world: World, body: dict[str, object]) -> IndodanaError:
    with pytest.raises(Refused) as caught:
        cancel_on(world.client(world.upstream(http(422, {"status": "ERROR", **body}))))
    return caught.value


def test_a_list_of_texts_is_one_message(world: World) -> None:
    assert refused(world, {"error": {"messages": ["out of stock", "try later"]}}).message == "out of stock; try later"


def test_texts_within_objects_are_one_message(world: World) -> None:
    error = refused(world, {"error": {"errors": [{"message": "out of stock"}, {"detail": "try later"}]}})
    assert error.message == "out of stock; try later"


def test_an_error_that_is_a_list_is_the_message_beside_a_code(world: World) -> None:
    error = refused(world, {"error": ["out of stock"], "code": "X17"})
    assert (error.kind, error.message) == ("X17", "out of stock")


def test_an_error_with_a_kind_alone_leaves_the_words_to_the_document(world: World) -> None:
    error = refused(world, {"error": {"kind": "StockError"}, "message": "out of stock"})
    assert (error.kind, error.message) == ("StockError", "out of stock")


def test_an_error_with_a_kind_alone_has_no_message(world: World) -> None:
    error = refused(world, {"error": {"kind": "StockError"}})
    assert (error.kind, error.message) == ("StockError", None)


def test_an_error_without_known_fields_is_its_own_message(world: World) -> None:
    error = refused(world, {"error": {"stock": "none left"}})
    assert (error.kind, error.message) == (None, '{"stock":"none left"}')


def test_an_error_text_stands_before_the_words_beside_it(world: World) -> None:
    error = refused(world, {"error": "the order was rejected", "message": "out of stock"})
    assert error.message == "the order was rejected; out of stock"


def test_the_refunds_own_amount_stays_in_a_message(world: World) -> None:
    upstream = world.upstream(
        http(
            422, {"status": "ERROR", "error": {"kind": "StockError", "message": "123456789 is too much, not 987654321"}}
        )
    )
    with pytest.raises(Refused) as caught:
        world.client(upstream).cancel("m1", cancellation(amount=Decimal(123_456_789)))
    assert caught.value.message == "123456789 is too much, not [masked]"


@pytest.mark.parametrize("field", ["legalName", "indodanaUserId"])
def test_a_customer_named_in_an_answer_is_masked_in_its_message(world: World, field: str) -> None:
    error = refused(
        world, {field: "Sukarno Putra", "error": {"kind": "StockError", "message": "Sukarno Putra cancelled"}}
    )
    assert error.message == "[masked] cancelled"


@pytest.mark.parametrize(("status", "requests"), [(401, 2), (429, 2), (500, 2), (599, 2), (499, 3), (600, 3)])
def test_a_kept_connection_is_believed_only_errors_that_fit_any_request(
    world: World, status: int, requests: int
) -> None:
    upstream = world.upstream(http(body=PAID), http(status, {"status": "ERROR"}), http(500))
    client = world.client(upstream)
    status_of(client)
    with pytest.raises(IndodanaError):
        status_of(client)
    assert len(upstream.received) == requests


def nested(levels: int, wrap: Callable[[object], object]) -> object:
    words: object = "out of stock"
    for _ in range(levels):
        words = wrap(words)
    return words


@pytest.mark.parametrize("wrap", [lambda words: [words], lambda words: {"message": words}], ids=["lists", "objects"])
def test_words_are_taken_from_three_levels_and_no_more(world: World, wrap: Callable[[object], object]) -> None:
    assert refused(world, {"error": {"message": nested(3, wrap)}}).message == "out of stock"
    deeper = nested(4, wrap)
    assert refused(world, {"error": {"message": deeper}}).message == json.dumps(deeper, separators=(",", ":"))


def test_an_empty_message_leaves_the_words_to_the_next_field(world: World) -> None:
    assert refused(world, {"error": {"message": "", "detail": "out of stock"}}).message == "out of stock"


def test_customers_in_lists_and_beside_lists_are_masked(world: World) -> None:
    message = "Sukarno Putra and Kartini Putri cancelled"
    body: dict[str, object] = {"who": {"legalName": ["Sukarno Putra"]}, "list": ["x", {"legalName": "Kartini Putri"}]}
    assert refused(world, {**body, "message": message}).message == "[masked] and [masked] cancelled"


@pytest.mark.parametrize(
    ("field", "longest", "too_long"),
    [
        ("paymentType", "x" * 256, "x" * 257),
        ("transactionStatus", "X" * 64, "X" * 65),
        ("transactionStatus", "X", ""),
        ("transactionId", 10**19, 10**20),
        ("transactionId", RawNumber("1E+20"), RawNumber("1E+21")),
        ("transactionId", RawNumber("1E-20"), RawNumber("1E-21")),
    ],
)
def test_a_documented_field_has_a_bounded_length(world: World, field: str, longest: object, too_long: object) -> None:
    def ask(value: object) -> Any:
        return status_of(world.client(world.upstream(http(body=simplejson.dumps({**PAID, field: value})))))

    assert str(ask(longest).fields[field]) == str(longest)
    with pytest.raises(AnswerUnreadable, match=field):
        ask(too_long)


@pytest.mark.parametrize(
    "date", ["Thu, 26 Sep 2019 06:25:26 GMT", "Thu, 26 Sep 2019 06:25:26 -0000", "Thu, 26 Sep 2019 13:25:26 +0700"]
)
def test_a_date_to_come_back_at_is_of_the_zone_it_names_or_utc(
    world: World, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    monkeypatch.setenv("TZ", "Asia/Jakarta")
    time.tzset()
    try:
        answer = http(429, {"status": "ERROR"}, f"Retry-After: {date}")
        with pytest.raises(IndodanaError) as caught:
            status_of(world.client(world.upstream(answer)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert caught.value.retry_after_seconds == 60


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (http(body={**PAID, "merchantOrderId": "ORDER-2"}), "an answer about another order (HTTP 200)"),
        (http(302, PAID), "an undocumented HTTP status (HTTP 302)"),
        (http(body="[]"), "an answer that is not a JSON object (HTTP 200)"),
        (http(body='{"status": "OK", "status": "OK"}'), "JSON with a duplicate key (HTTP 200)"),
        (http(body={**PAID, "status": "FINE"}), "an answer without status OK (HTTP 200)"),
        (
            http(body=PAID)[:-1],
            "the connection to Indodana was lost before its answer was complete (IncompleteRead) (HTTP 200)",
        ),
    ],
)
def test_an_error_says_what_was_wrong_with_the_answer(world: World, answer: bytes, cause: str) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        status_of(world.client(world.upstream(sends(answer))))
    assert str(caught.value).removeprefix("Indodana returned ") == cause


def test_the_base_urls_path_is_kept_but_for_its_last_slash(world: World) -> None:
    upstream = world.upstream(http(body=PAID))
    status_of(world.client(f"{upstream.url}/X/"))
    assert upstream.received[0].target.startswith("/chermes/merchant/X/v1/")


@pytest.mark.parametrize(
    "field",
    [
        *("message", "messages", "errormessage", "errordescription", "description", "detail", "details", "reason"),
        *("msg", "pesan", "errors", "title", "error_message", "Error-Description"),
    ],
)
def test_a_message_is_read_by_any_of_its_names(world: World, field: str) -> None:
    assert refused(world, {"error": {"kind": "StockError", field: "out of stock"}}).message == "out of stock"
    assert refused(world, {"error": {"kind": "StockError"}, field: "out of stock"}).message == "out of stock"


@pytest.mark.parametrize("field", ["kind", "type", "code", "errorcode", "error_code"])
def test_a_kind_is_read_by_any_of_its_names(world: World, field: str) -> None:
    assert refused(world, {"error": {field: "StockError"}}).kind == "StockError"
    assert refused(world, {field: 1701}).kind == "1701"


PERSONAL = (
    *("account", "rekening", "card", "holder", "owner", "buyer", "payer", "contact", "by", "key", "ip", "device"),
    *("session", "postal", "zip", "tel", "fax", "identity", "person", "recipient", "age", "gender", "pan", "iban"),
    *("hp", "wa", "nik", "ktp", "npwp", "dob", "pin", "otp", "cvv", "name", "alamat", "apiKey", "cancelledBy"),
)


@pytest.mark.parametrize("word", PERSONAL)
def test_the_value_of_a_personal_field_is_not_kept(world: World, word: str) -> None:
    body: dict[str, object] = {"error": {f"{word}Info": "abc", "stockInfo": "abc"}}
    assert refused(world, body).message == f'{{"{word}Info":"[text of 3]","stockInfo":"abc"}}'


@pytest.mark.parametrize(
    "state", ["PENDING", "PROCESSING", "IN_PROGRESS", "in progress", "FAILED", "REJECTED", "EXPIRED"]
)
@pytest.mark.parametrize("field", ["refundStatus", "cancellationStatus", "transactionStatus"])
def test_an_ok_that_names_another_state_contradicts_itself(world: World, field: str, state: str) -> None:
    with pytest.raises(ContradictingAnswer) as caught:
        cancel_on(world.client(world.upstream(http(body={"status": "OK", field: state}))))
    assert caught.value.field == field
    cancel_on(world.client(world.upstream(http(body={"status": "OK", field: f"NOT_{state}"}))))


def test_a_message_of_many_words_is_cut_after_ten(world: World) -> None:
    words = [f"word {number}" for number in range(11)]
    assert refused(world, {"error": {"messages": words}}).message == "; ".join(words[:10])


def test_a_customers_short_name_is_masked_and_shorter_ones_are_not(world: World) -> None:
    body: dict[str, object] = {"legalName": "Ani", "indodanaUserId": "u7"}
    assert refused(world, {**body, "message": "Ani (u7) cancelled"}).message == "[masked] (u7) cancelled"
