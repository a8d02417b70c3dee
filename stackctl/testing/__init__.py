"""The stack in tests: a pytest plugin and what its fixtures give. It loads nothing of itself, for every pytest with this package installed does."""
