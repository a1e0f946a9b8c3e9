"""Where people live: metropolitan areas with millions of people (UN estimates, rounded)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.geo import Point


@dataclass(frozen=True, slots=True)
class City:
    """Where calls come from."""

    name: str
    point: Point
    millions: float


CITIES: Final = tuple(
    City(name, Point(latitude, longitude), millions)
    for name, latitude, longitude, millions in (
        ("New York", 40.7, -74.0, 18.8),
        ("Los Angeles", 34.1, -118.2, 12.5),
        ("Chicago", 41.9, -87.6, 8.9),
        ("Houston", 29.8, -95.4, 6.6),
        ("Miami", 25.8, -80.2, 6.2),
        ("Atlanta", 33.7, -84.4, 6.0),
        ("Seattle", 47.6, -122.3, 3.5),
        ("Denver", 39.7, -105.0, 2.9),
        ("Toronto", 43.7, -79.4, 6.3),
        ("Vancouver", 49.3, -123.1, 2.6),
        ("Mexico City", 19.4, -99.1, 22.1),
        ("Guatemala City", 14.6, -90.5, 3.0),
        ("Bogotá", 4.7, -74.1, 11.3),
        ("Lima", -12.0, -77.0, 11.0),
        ("Santiago", -33.4, -70.7, 6.9),
        ("Buenos Aires", -34.6, -58.4, 15.4),
        ("São Paulo", -23.5, -46.6, 22.4),
        ("Rio de Janeiro", -22.9, -43.2, 13.6),
        ("Recife", -8.0, -34.9, 4.2),
        ("London", 51.5, -0.1, 9.5),
        ("Dublin", 53.3, -6.3, 1.3),
        ("Paris", 48.9, 2.4, 11.1),
        ("Madrid", 40.4, -3.7, 6.7),
        ("Lisbon", 38.7, -9.1, 3.0),
        ("Berlin", 52.5, 13.4, 3.6),
        ("Frankfurt", 50.1, 8.7, 2.4),
        ("Milan", 45.5, 9.2, 3.2),
        ("Rome", 41.9, 12.5, 4.3),
        ("Stockholm", 59.3, 18.1, 1.7),
        ("Warsaw", 52.2, 21.0, 1.8),
        ("Athens", 38.0, 23.7, 3.2),
        ("Kyiv", 50.5, 30.5, 3.0),
        ("Istanbul", 41.0, 29.0, 15.6),
        ("Cairo", 30.0, 31.2, 21.8),
        ("Casablanca", 33.6, -7.6, 3.8),
        ("Lagos", 6.5, 3.4, 15.4),
        ("Accra", 5.6, -0.2, 2.6),
        ("Nairobi", -1.3, 36.8, 5.1),
        ("Addis Ababa", 9.0, 38.7, 5.2),
        ("Johannesburg", -26.2, 28.0, 6.1),
        ("Cape Town", -33.9, 18.4, 4.8),
        ("Tel Aviv", 32.1, 34.8, 4.3),
        ("Riyadh", 24.7, 46.7, 7.5),
        ("Dubai", 25.2, 55.3, 3.0),
        ("Tashkent", 41.3, 69.2, 2.6),
        ("Karachi", 24.9, 67.0, 16.8),
        ("Delhi", 28.6, 77.2, 32.1),
        ("Mumbai", 19.1, 72.9, 21.0),
        ("Bengaluru", 13.0, 77.6, 13.2),
        ("Kolkata", 22.6, 88.4, 15.1),
        ("Dhaka", 23.8, 90.4, 22.5),
        ("Bangkok", 13.8, 100.5, 10.9),
        ("Ho Chi Minh City", 10.8, 106.7, 9.1),
        ("Singapore", 1.3, 103.8, 6.0),
        ("Jakarta", -6.2, 106.8, 11.1),
        ("Manila", 14.6, 121.0, 14.4),
        ("Hong Kong", 22.3, 114.2, 7.6),
        ("Taipei", 25.0, 121.5, 2.7),
        ("Seoul", 37.6, 127.0, 10.0),
        ("Osaka", 34.7, 135.5, 19.1),
        ("Tokyo", 35.7, 139.7, 37.3),
        ("Perth", -31.9, 115.9, 2.1),
        ("Sydney", -33.9, 151.2, 5.1),
        ("Melbourne", -37.8, 145.0, 5.2),
        ("Auckland", -36.8, 174.8, 1.7),
    )
)
