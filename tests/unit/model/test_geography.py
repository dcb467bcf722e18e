"""Distances are those of known places, and a bounding box contains its circle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.geography import MAX_RADIUS_KM, compute_bounding_box, compute_distance_km

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@pytest.mark.parametrize(
    ("first", "second", "kilometres"),
    [
        ((47.3769, 8.5417), (46.2044, 6.1432), 224.6),  # Zurich, Geneva
        ((51.5074, -0.1278), (40.7128, -74.0060), 5570),  # London, New York
        ((-17.7134, 178.065), (-13.8333, -171.7667), 1160),  # Fiji, Samoa: across the antimeridian
        ((90, 0), (-90, 0), 20015),
        ((10, 20), (10, 20), 0),
    ],
)
def test_distances_of_known_places(first: tuple[float, float], second: tuple[float, float], kilometres: float) -> None:
    assert compute_distance_km(*first, *second) == pytest.approx(kilometres, rel=0.01, abs=0.001)


@given(latitudes, longitudes, st.floats(0.001, MAX_RADIUS_KM), latitudes, longitudes)
def test_who_is_in_the_circle_is_in_the_box(
    latitude: float, longitude: float, radius: float, other_latitude: float, other_longitude: float
) -> None:
    box = compute_bounding_box(latitude, longitude, radius)
    if compute_distance_km(latitude, longitude, other_latitude, other_longitude) <= radius:
        assert box.south <= other_latitude <= box.north
        assert not box.longitudes or any(west <= other_longitude <= east for west, east in box.longitudes)


@given(st.floats(-80, 80), longitudes)
def test_a_box_is_not_much_larger_than_its_circle(latitude: float, longitude: float) -> None:
    box = compute_bounding_box(latitude, longitude, 10)
    width = sum(east - west for west, east in box.longitudes)
    assert box.north - box.south == pytest.approx(0.18, rel=0.01)
    assert width == pytest.approx(0.18 / math.cos(math.radians(latitude)), rel=0.02)
