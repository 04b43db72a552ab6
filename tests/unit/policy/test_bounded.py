"""The bounded mapping."""

from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.policy.bounded import BoundedCache


@given(st.lists(st.integers(0, 50)), st.integers(2, 20))
def test_bounded_and_true(keys: list[int], size: int) -> None:
    """It never holds more than its size, never gives another key's value, and always the one used last."""
    cache: BoundedCache[int, str] = BoundedCache(size)
    for key in keys:
        cache.put(key, str(key))
        assert cache.get(key) == str(key)
        assert len(cache.items()) <= size
    for key in range(51):
        assert cache.get(key) in (None, str(key))


def test_what_is_used_stays() -> None:
    """An entry that is read now and then outlives any number of new ones."""
    cache: BoundedCache[int, int] = BoundedCache(10)
    cache.put(-1, 1)
    for key in range(100):
        cache.put(key, key)
        assert cache.get(-1) == 1
    assert cache.get(0) is None
