"""The package's front: what it offers by name."""

import pytest

import alchemint


@pytest.mark.parametrize("name", alchemint.__all__)
def test_every_name_is_found_where_it_lives(name: str) -> None:
    assert getattr(alchemint, name).__name__ == name
    assert name in dir(alchemint)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Alchemist'"):
        alchemint.Alchemist  # noqa: B018
