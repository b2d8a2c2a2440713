"""jacobian, hessian, vjp and jvp against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn import Tensor, grad, no_grad, ops
from tinygrad_cnn.autodiff import hessian, jacobian, jvp, vjp
from tinygrad_cnn.errors import GraphError

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(3, 4))
VECTOR = RNG.normal(size=4)


def test_the_jacobian_of_a_linear_map_is_its_matrix():
    found = jacobian(lambda x: Tensor(MATRIX) @ x, Tensor(VECTOR))
    assert np.allclose(found.array, MATRIX)


def test_the_jacobian_of_an_elementwise_function_is_diagonal():
    found = jacobian(lambda x: x.exp(), Tensor(VECTOR))
    assert np.allclose(found.array, np.diag(np.exp(VECTOR)))


def test_the_jacobian_of_softmax_is_diag_p_minus_p_pt():
    p = np.exp(VECTOR) / np.exp(VECTOR).sum()
    found = jacobian(lambda x: x.softmax(axis=0), Tensor(VECTOR))
    assert np.allclose(found.array, np.diag(p) - np.outer(p, p))


def test_the_shape_of_a_jacobian_is_that_of_the_result_then_that_of_the_input():
    x = Tensor(RNG.normal(size=(2, 3)))
    assert jacobian(lambda x: x.sum(axis=0), x).shape == (3, 2, 3)
    assert jacobian(lambda x: x.sum(), x).shape == (2, 3)
    assert jacobian(lambda x: x[:0], x).shape == (0, 3, 2, 3)
    assert jacobian(lambda x: x[:0] * 2, x, create_graph=True).shape == (0, 3, 2, 3)
    assert jacobian(lambda x: x * 2, Tensor(1.0)).shape == ()


def test_a_constant_function_has_derivatives_of_zero():
    x = Tensor(VECTOR)
    constant = Tensor(np.ones(2))
    assert np.array_equal(jacobian(lambda x: constant, x).array, np.zeros((2, 4)))
    assert np.array_equal(hessian(lambda x: constant.sum(), x).array, np.zeros((4, 4)))
    assert np.array_equal(hessian(lambda x: x.sum(), x).array, np.zeros((4, 4)))
    y, (gx,) = vjp(lambda x: constant, x, seed=np.ones(2))
    assert np.array_equal(gx.array, np.zeros(4))
    y, tangent = jvp(lambda x: constant, [x], [np.ones(4)])
    assert np.array_equal(tangent.array, np.zeros(2))
    assert y is constant


def test_the_hessian_of_a_quadratic_form_is_its_symmetric_part_twice():
    a = RNG.normal(size=(4, 4))
    found = hessian(lambda x: (x * (Tensor(a) @ x)).sum(), Tensor(VECTOR))
    assert np.allclose(found.array, a + a.T)


def test_the_hessian_of_logsumexp_is_the_jacobian_of_softmax():
    x = Tensor(VECTOR)
    assert np.allclose(hessian(lambda x: x.logsumexp(), x).array, jacobian(lambda x: x.softmax(axis=0), x).array)


def test_the_hessian_of_a_matrix_argument_has_its_shape_twice():
    x = Tensor(RNG.normal(size=(2, 3)))
    found = hessian(lambda x: (x**3).sum(), x)
    assert found.shape == (2, 3, 2, 3)
    assert np.allclose(found.array.reshape(6, 6), np.diag(6 * x.array.reshape(-1)))
    assert hessian(lambda x: x**3, Tensor(2.0)).item() == 12


def test_a_hessian_needs_a_scalar_function():
    with pytest.raises(GraphError, match=r"scalar result, got shape \(4,\)"):
        hessian(lambda x: x * 2, Tensor(VECTOR))


def test_the_jacobian_of_a_jacobian_is_the_second_derivative():
    x = Tensor(VECTOR, requires_grad=True)
    first = jacobian(lambda x: x**3, x, create_graph=True)
    (second,) = grad(first.sum(), x)
    assert np.allclose(second.array, 6 * VECTOR)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_vjp_and_jvp_are_products_with_the_jacobian_from_both_sides(seed):
    rng = np.random.default_rng(seed)
    x, row, column = Tensor(rng.normal(size=4)), rng.normal(size=3), rng.normal(size=4)

    def function(x):
        return ops.tanh(Tensor(MATRIX) @ x) * (x[0] + x[1:] * x[3])

    j = jacobian(function, x).array
    y, (back,) = vjp(function, x, seed=row)
    z, forth = jvp(function, [x], [column])
    assert np.allclose(y.array, function(x).array)
    assert np.allclose(z.array, y.array)
    assert np.allclose(back.array, row @ j)
    assert np.allclose(forth.array, j @ column)
    assert np.isclose(row @ forth.array, back.array @ column)


def test_vjp_and_jvp_take_several_inputs_of_which_some_may_be_unused():
    a, b, unused = Tensor(2.0), Tensor(3.0), Tensor(np.ones(2), dtype="float64")
    y, grads = vjp(lambda a, b, c: a * b, a, b, unused)
    assert [g.tolist() for g in grads] == [3, 2, [0, 0]]
    y, tangent = jvp(lambda a, b, c: a * b, [a, b, unused], [Tensor(1.0), Tensor(10.0), np.ones(2)])
    assert (y.item(), tangent.item()) == (6, 23)
    with pytest.raises(GraphError, match="2 inputs need as many tangents, got 1"):
        jvp(lambda a, b: a, [a, b], [1.0])


def test_the_identity_is_a_function_too():
    x = Tensor(VECTOR)
    assert np.array_equal(jacobian(lambda x: x, x).array, np.eye(4))
    assert np.array_equal(jvp(lambda x: x, [x], [VECTOR])[1].array, VECTOR)
    assert np.array_equal(vjp(lambda x: x, x, seed=VECTOR)[1][0].array, VECTOR)


def test_they_work_under_no_grad_and_leave_the_input_alone():
    x = Tensor(VECTOR)
    with no_grad():
        assert np.allclose(jacobian(lambda x: x * x, x).array, np.diag(2 * VECTOR))
        assert np.allclose(hessian(lambda x: (x * x).sum(), x).array, 2 * np.eye(4))
        assert np.allclose(vjp(lambda x: x * x, x, seed=VECTOR)[1][0].array, 2 * VECTOR**2)
        assert np.allclose(jvp(lambda x: x * x, [x], [VECTOR])[1].array, 2 * VECTOR**2)
    assert not x.requires_grad
    assert x.grad is None


def test_types_are_kept():
    x = Tensor([1.0, 2.0])
    assert jacobian(lambda x: x * x, x).dtype == np.float32
    assert hessian(lambda x: (x * x).sum(), x).dtype == np.float32
    assert jvp(lambda x: x * x, [x], [np.ones(2)])[1].dtype == np.float32
    assert vjp(lambda x: x * x, x, seed=np.ones(2))[1][0].dtype == np.float32


def test_what_is_no_tensor_is_refused():
    for function in (lambda: jacobian(lambda x: x, VECTOR), lambda: vjp(lambda x: x, 1.0)):
        with pytest.raises(GraphError, match="expected a tensor, got"):
            function()
    with pytest.raises(GraphError, match="tensor"):
        jacobian(lambda x: 3.0, Tensor(VECTOR))


def test_an_input_of_whole_numbers_cannot_be_differentiated():
    with pytest.raises((GraphError, TypeError), match="float"):
        jacobian(lambda x: x * 2, Tensor([1, 2]))
