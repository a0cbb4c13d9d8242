"""What pages offer."""

from __future__ import annotations

import re

from tests.browser.stage import SHAPES

from .conftest import Operator


async def test_quality_is_offered_for_the_models_that_can_be_measured(operator: Operator) -> None:
    await operator.log_in()
    page = (await operator.http.get("/dashboard/jobs")).text
    offered = re.findall(r"<option>([^<]+)</option>", page)
    assert offered == [name for name, shape in SHAPES.items() if shape.engine == "llamacpp"]
