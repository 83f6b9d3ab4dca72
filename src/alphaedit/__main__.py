"""``python -m alphaedit`` is the command ``alphaedit``."""

from alphaedit.cli.app import main

if __name__ == "__main__":
    main()
