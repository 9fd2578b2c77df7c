"""``python -m distviz``."""

from distviz.cli.app import main

if __name__ == "__main__":
    main()
