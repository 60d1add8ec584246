"""Human-readable sizes, times and counts."""

BINARY = ("KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """A number of bytes with three digits: `1 byte`, `38.4 MiB`, `71.2 GiB`."""
    if count < 1000:
        return f"{count} byte{'s' * (count != 1)}"
    power = next((power for power in (1, 2, 3) if count / 1024**power < 999.5), 4)
    return f"{_three_digits(count / 1024**power)} {BINARY[power - 1]}"


def _three_digits(value: float) -> str:
    """`0.98`, `1.5`, `38.4`, `147`, `12,345`: at least 0.01, no trailing zeros."""
    if value >= 99.95:
        return f"{value:,.0f}"
    digits = 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time of at least 0 s: `under 1 s`, `42 s`, `1 min 30 s`, `25 min`, `1 h 20 min`, `3 days 4 h`."""
    if seconds < 0.95:
        return "under 1 s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 600:
        return _two(whole, 60, "min", "s")
    if (minutes := round(seconds / 60)) < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return _two(minutes, 60, "h", "min")
    return _two(round(seconds / 3600), 24, "days", "h")


def about(seconds: float) -> str:
    """An estimated time: `under 1 s`, `about 42 s`."""
    return duration(seconds) if seconds < 0.95 else f"about {duration(seconds)}"


def _two(count: int, by: int, large: str, small: str) -> str:
    rest = f" {count % by} {small}" if count % by else ""
    return f"{count // by} {large}{rest}"


def each(seconds: float) -> str:
    """The duration of one step: `0.31 s`, `12 ms`, `4.2 s`, `1 min 30 s`."""
    if seconds < 0.0995:
        return f"{_three_digits(max(seconds * 1000, 0.01))} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2g} s" if seconds < 9.95 else duration(seconds)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `12,000 images`. many: the plural, if it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
