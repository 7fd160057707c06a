import pytest

from rdm_jax.data.held_out import is_held_out


@pytest.mark.parametrize("share", [0.0, 0.12, 0.5, 1.0])
def test_as_many_values_are_held_out_as_wanted(share):
    found = [is_held_out([f"style {i % 40}", f"word {i}"], share) for i in range(20_000)]
    assert sum(found) / len(found) == pytest.approx(share, abs=0.01)


def test_a_larger_share_holds_out_the_same_and_more():
    values = [[str(i)] for i in range(500)]
    few, many = ({tuple(v) for v in values if is_held_out(v, share)} for share in (0.1, 0.3))
    assert few < many
