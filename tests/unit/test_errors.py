"""Every error of the registry can be caught by its public name."""

import pytest

import tidings
from tidings import errors


@pytest.mark.parametrize("error", errors.REGISTRY.values(), ids=errors.REGISTRY.keys())
def test_an_error_is_public_and_says_what_it_means(error: type[errors.TidingsError]) -> None:
    assert getattr(tidings, error.__name__) is error
    assert error.__name__ in tidings.__all__
    assert error.__doc__
