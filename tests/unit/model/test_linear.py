"""Matrix products by whichever library: the same numbers as in float64, forward and backward."""

import pytest
import torch

from tokenmill.model.linear import FILLED_FROM, ROWS, filled, linear


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, 3 * ROWS])
@pytest.mark.parametrize(("wide", "narrow"), [(40, 24), (24, 40)])
def test_it_and_its_gradients_are_those_of_float64(rows, wide, narrow):
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, wide, requires_grad=True), torch.randn(narrow, wide, requires_grad=True)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    out, exact = linear(x, weight), exact_x @ exact_weight.T
    torch.testing.assert_close(out.double(), exact, atol=1e-4, rtol=1e-5)
    grad = torch.randn(rows, narrow)
    out.backward(grad)
    exact.backward(grad.double())
    torch.testing.assert_close(x.grad.double(), exact_x.grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), exact_weight.grad, atol=1e-4, rtol=1e-5)


def test_what_is_frozen_gets_no_gradient_and_costs_none():
    x, weight = torch.randn(ROWS, 8, requires_grad=True), torch.randn(4, 8)
    linear(x, weight).sum().backward()
    assert x.grad is not None and weight.grad is None
    assert not linear(x.detach(), weight).requires_grad


def test_a_gpus_and_half_precisions_products_are_pytorchs_own():
    x = torch.randn(ROWS, 8, dtype=torch.bfloat16)
    weight = torch.randn(4, 8, dtype=torch.bfloat16)
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
    assert linear(torch.empty(ROWS, 8, device="meta"), torch.empty(4, 8, device="meta")).shape == (
        ROWS,
        4,
    )


def test_code_is_made_for_few_shapes_which_follow_from_the_rows():
    x = torch.empty(0, 8)
    asked = {filled(x, rows) for rows in range(FILLED_FROM, 4097)}
    assert asked == {rows for rows in range(FILLED_FROM, 4097) if rows % ROWS == 0}
    assert all(0 <= filled(x, rows) - rows < ROWS for rows in range(FILLED_FROM, 4097))
    assert filled(x, FILLED_FROM - 1) == FILLED_FROM - 1
    assert filled(x.bfloat16(), 700) == filled(torch.empty(0, 8, device="meta"), 700) == 700
