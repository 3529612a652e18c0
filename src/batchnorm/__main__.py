"""`python -m batchnorm` is the command `batchnorm`."""

from batchnorm.cli import main

if __name__ == "__main__":
    main()
