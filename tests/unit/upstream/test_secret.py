"""A secret does not print."""

import copy
import json
import pickle

import pytest

from mirror.upstream.secret import Secret


def test_no_way_of_printing_shows_it():
    secret = Secret("hunter2")
    texts = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", f"{[secret]}", f"{secret}"]
    assert all("hunter2" not in text for text in texts)
    assert secret.reveal() == "hunter2"


def test_it_is_neither_pickled_nor_serialised():
    secret = Secret("hunter2")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert not hasattr(secret, "__dict__")


def test_equality_and_truth():
    assert Secret("a") == Secret("a") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert not Secret("")
    assert Secret("a") != "a"
