"""``python -m harness_cli`` is the installed command ``harness``."""

from harness_cli.main import main

if __name__ == "__main__":
    main()
