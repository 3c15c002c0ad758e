"""The steps that turn MakeHuman's CC0 data into the open head; run by tools/build_head_model.py."""
