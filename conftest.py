"""What pytest leaves out where an optional package is missing: doctests import the modules they are in."""

from importlib.util import find_spec

OPTIONAL = {"flwr": ["src/decollapse/flower"], "cryptography": ["src/decollapse/secure", "tests/secure"]}
collect_ignore = [path for package, paths in OPTIONAL.items() if not find_spec(package) for path in paths]
