import pytest
import torch

from focaldet.losses.reduce import reduce_loss, resolve_reduction

LOSS = torch.tensor([[1.0, 2], [3, 4]])


def test_none_sum_and_mean():
    assert torch.equal(reduce_loss(LOSS), LOSS)
    assert float(reduce_loss(LOSS, reduction="sum")) == 10
    assert float(reduce_loss(LOSS, reduction="mean")) == 2.5


def test_weight_broadcasts_and_does_not_change_the_count():
    assert float(reduce_loss(LOSS, weight=torch.tensor([[1.0], [0]]), reduction="mean")) == 0.75  # 3 / 4


def test_normalizer_divides_the_sum_as_number_or_tensor():
    for normalizer in (4, 4.0, torch.tensor(4), torch.tensor([4.0])):
        assert float(reduce_loss(LOSS, reduction="sum", normalizer=normalizer)) == 2.5


def test_mean_over_no_element_is_zero_and_keeps_the_graph():
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = reduce_loss(empty * 2, reduction="mean")
    loss.backward()
    assert float(loss.detach()) == 0
    assert empty.grad.shape == (0, 3)


@pytest.mark.parametrize("count", [1, torch.tensor(1)])
def test_mean_over_one_element_is_that_element(count):
    assert float(reduce_loss(torch.tensor([3.0]), reduction="mean")) == 3
    scale, divisor, _ = resolve_reduction("mean", None, count)
    assert scale / (1 if divisor is None else float(divisor)) == 1


def test_unknown_reduction_is_an_error_that_names_the_near_one():
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        reduce_loss(LOSS, reduction="maen")


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_normalizer_without_a_sum_is_an_error(reduction):
    with pytest.raises(ValueError, match="expected reduction='sum'"):
        reduce_loss(LOSS, reduction=reduction, normalizer=2)


def test_normalizer_of_many_elements_is_an_error():
    with pytest.raises(ValueError, match="0-d tensor"):
        resolve_reduction("sum", torch.ones(3), 1)
