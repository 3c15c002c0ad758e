"""``python -m recon3d``: the command line."""

from recon3d.cli import main

main()
