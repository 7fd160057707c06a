"""Signals that end a run early."""

import signal

import jax
import pytest

from rdm_jax.training.stopping import StoppedAtOnce, Stopping


def test_sigterm_asks_for_a_checkpoint() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stop:
        stop.catch()
        assert not stop.due(1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.due(2) and not stop.interrupted
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_interruption_asks_for_a_checkpoint_and_the_second_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedAtOnce), Stopping() as stop:
        stop.catch()
        signal.raise_signal(signal.SIGINT)
        assert stop.due(1) and stop.interrupted
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_before_the_first_step_an_interruption_is_one() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping():
        signal.raise_signal(signal.SIGINT)


def test_of_several_processes_an_interruption_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))  # as JAX does
    try:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with Stopping() as stop:
            stop.catch()
            signal.raise_signal(signal.SIGINT)
            assert received == ["SIGTERM"] and stop.interrupted and not stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)
