"""``python -m distviz``."""

from distviz.cli import main

if __name__ == "__main__":
    main()
