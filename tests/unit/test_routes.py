"""The template's routes and the handlers' are the same."""

from __future__ import annotations

import importlib

import pytest

from devstack.template import Template

MODEL = Template.load_local().model()
HTTP_FUNCTIONS = sorted({route.function for route in MODEL.routes})


@pytest.mark.parametrize("function", HTTP_FUNCTIONS)
def test_a_function_answers_only_the_routes_the_template_gives_it(function: str) -> None:
    handler = importlib.import_module(MODEL.functions[function].handler.rpartition(".")[0])

    assert set(handler.ROUTES) == {route.key for route in MODEL.routes if route.function == function}
