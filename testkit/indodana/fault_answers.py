"""What a caller reads when a fault strikes that answers."""

from testkit.indodana.answers import SERVER_ERROR_KIND, Answer
from testkit.indodana.faults import Fault

HTML_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"


def under_fault(fault: Fault, right: Answer | None) -> Answer:
    """`right` is the answer without the fault; None if the fault kept the work from being done."""
    match fault.fault:
        case "error_before" | "error_after":
            return Answer.of_error(fault.status or 500, "Something went wrong", SERVER_ERROR_KIND)
        case "rate_limited":
            return Answer.of_error(429, "Too many requests", headers={"Retry-After": str(fault.retryAfter)})
        case "unauthorized":
            return Answer.of_error(401, "Unknown key or wrong signature")
        case "conflict":
            return Answer.of_error(409, "Conflict")
        case "refused":
            return Answer.of_error(fault.status or 422, "Refused")
        case "html" | "html_after":
            return Answer(fault.status or 200, HTML_PAGE, "text/html; charset=utf-8")
        case "empty" | "empty_after":
            return Answer(200, b"")
        case "ok_error":
            return Answer.of_error(200, "Something went wrong", SERVER_ERROR_KIND)
    assert right is not None, fault.fault
    return right
