"""Rooms over a real store, with a scripted upstream behind them."""

from tests.unit.content.conftest import make_room, upstream

__all__ = ["make_room", "upstream"]
