"""``python -m narthex``: the same command where no script is installed."""

from narthex.cli.main import main

if __name__ == "__main__":
    main()
