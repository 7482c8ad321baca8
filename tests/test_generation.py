"""What a generation is good for: a translation for all of it, a put for its incarnation."""

from __future__ import annotations

from tests.zones import make, touch


def test_a_put_is_of_the_incarnation_though_rights_were_taken_away_meanwhile() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 2)
    assert zone.set_generation(pfn[:1], generation[:1], generation[:1] + 1).tolist() == [0]
    assert zone.put_pages(pfn, generation).tolist() == [0, 0]
    assert zone.count()["free"] == 256
    again, now = touch(zone, 2)
    assert again.tolist() == pfn.tolist()
    assert zone.put_pages(pfn, generation).tolist() == [0, 0]
    assert zone.count()["free"] == 254, "a put that comes late frees nobody else's frame"
    zone.validate()
