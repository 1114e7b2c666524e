# What a contributor does, with the tools of the active environment: `just test`. https://just.systems

# Run the quick tests.
test:
    pytest -n 2

# Run the slow tests.
slow:
    pytest -n 2 -m slow

# Measure the coverage of the quick and the slow tests.
coverage:
    pytest -n 2 -m "not nightly" --cov --cov-report=term:skip-covered

# Format the code and check it.
lint:
    ruff format .
    ruff check .

# Check the types.
types:
    mypy

# Generate docs/cli.md; CONTRIBUTING.md lists the generators that take minutes.
docs:
    python -m bnn_keras.cli.reference > docs/cli.md

# Build the documentation as a site in site/, with warnings as errors.
site:
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Build the wheel in dist/ and check it in a folder without the checkout.
build:
    rm -rf build dist
    pip wheel --no-deps --wheel-dir dist .
    pytest -m "not nightly" tests/test_packaging.py
