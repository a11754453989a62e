"""UrbanCross as a Python package: the program, and nothing that is imported. Run it as `urbancross` or `python -m urbancross`."""
