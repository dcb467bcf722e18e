"""Distances on the Earth, and the box of coordinates that contains a circle. Pure.

A sphere is accurate to half a percent, which is less than the size of the places that addresses are resolved to.
"""

import math
from dataclasses import dataclass
from typing import Final

#: kilometres, the mean radius of the WGS 84 ellipsoid
EARTH_RADIUS_KM: Final = 6371.0088
#: kilometres; half the circumference is 20 015
MAX_RADIUS_KM: Final = 20_000.0
#: degrees by which a box is larger than needed, so that rounding excludes nobody
_MARGIN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """Ranges of degrees that contain a circle."""

    south: float
    north: float
    #: (west, east), two if the circle crosses the antimeridian, none if it contains every longitude
    longitudes: tuple[tuple[float, float], ...]


def compute_bounding_box(latitude: float, longitude: float, radius_km: float) -> BoundingBox:
    """Return the box that contains the circle around a point. latitude, longitude: degrees."""
    angle = radius_km / EARTH_RADIUS_KM
    height = math.degrees(angle) + _MARGIN
    south, north = latitude - height, latitude + height
    if south <= -90 or north >= 90:
        # a circle that contains a pole has points on every meridian
        return BoundingBox(max(south, -90.0), min(north, 90.0), ())
    width = math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(latitude))))) + _MARGIN
    west, east = longitude - width, longitude + width
    if west < -180:
        return BoundingBox(south, north, ((west + 360, 180.0), (-180.0, east)))
    if east > 180:
        return BoundingBox(south, north, ((west, 180.0), (-180.0, east - 360)))
    return BoundingBox(south, north, ((west, east),))


def compute_haversine(radius_km: float) -> float:
    """Return the haversine of a distance; two points are within it if the haversine of their angle is not larger."""
    return math.sin(min(radius_km / EARTH_RADIUS_KM, math.pi) / 2) ** 2


def compute_distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Return the distance of two points, given in degrees, along the great circle."""
    first, second = math.radians(latitude), math.radians(other_latitude)
    half_height = math.sin((second - first) / 2) ** 2
    half_width = math.sin(math.radians(other_longitude - longitude) / 2) ** 2
    haversine = half_height + math.cos(first) * math.cos(second) * half_width
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(haversine)))
