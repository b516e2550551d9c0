"""What the project claims to be fast, measured by ``make bench``; not part of the wheel."""
