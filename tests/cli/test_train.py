"""The lines that `rdm train` prints."""

from __future__ import annotations

from rdm_jax.cli.train import LETTERS, metrics_text


def test_a_line_has_the_loss_first_and_plain_numbers() -> None:
    values = {"accuracy/style": 0.5, "grad_norm": 1.25, "images_per_second": 12345.6, "learning_rate": 2e-5}
    text = metrics_text({**values, "loss": 0.25, "seconds_per_step": 1.0})
    assert text == "loss 0.25, grad_norm 1.25, images_per_second 12346, learning_rate 0.00002, accuracy/style 0.5"


def test_the_metrics_of_many_styles_are_one_short_line_that_says_where_the_others_are() -> None:
    values = {f"eval/accuracy/style number {i}": i / 254 for i in range(254)} | {"eval/loss": 1.5}
    text = metrics_text(values)
    assert text.startswith("eval/loss 1.5, ") and len(text) < LETTERS + 50
    shown = text.count("eval/")
    assert text.endswith(f", {255 - shown} more in metrics.jsonl")


def test_the_name_of_a_metric_is_shortened() -> None:
    assert len(metrics_text({"eval/accuracy/" + 1000 * "x": 1.0})) < 100
