#!/usr/bin/env python3
"""The JSON Schemas of `brownbridge schema`, judged by the Python package jsonschema: both are schemas of draft 7
and of draft 4, which editors know, every
shipped file is valid by them, and files with mistakes are not.

    pip install jsonschema
    tests/interop/schema.py [path of brownbridge, default $BROWNBRIDGE, then what cargo built]

Exits 0 when all is so, 1 on a difference, 2 when it could not run.
"""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

try:
    import jsonschema
except ImportError:
    print("jsonschema is not there: python3 -m pip install jsonschema", file=sys.stderr)
    sys.exit(2)

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = [ROOT / "target" / kind / "brownbridge" for kind in ("release", "debug")]


def program():
    named = sys.argv[1:2] or [os.environ.get("BROWNBRIDGE")]
    for path in [*filter(None, named), *BUILT]:
        if pathlib.Path(path).is_file():
            return str(path)
    print("there is no brownbridge: cargo build", file=sys.stderr)
    sys.exit(2)


def validator(brownbridge, what):
    schema = json.loads(subprocess.run([brownbridge, "schema", what], check=True, capture_output=True).stdout)
    jsonschema.Draft4Validator.check_schema(schema)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def main():
    brownbridge = program()
    rules, config = validator(brownbridge, "rules"), validator(brownbridge, "config")
    rows = [(rules, path, True) for path in sorted((ROOT / "rules").glob("*.toml"))]
    rows += [(rules, path, True) for path in sorted((ROOT / "tests/golden/rules").glob("*.toml"))]
    rows += [(config, ROOT / "bridge.toml.example", True), (config, ROOT / "tests/golden/bridge/typos.toml", False)]
    bad = ["bad-1-typos", "unknown-key", "unknown-type", "unknown-reason", "unknown-lint", "wrong-type", "bad-duration"]
    rows += [(rules, ROOT / f"tests/golden/check/{name}.toml", False) for name in bad]
    failed = 0
    for by, path, valid in rows:
        errors = [error.message for error in by.iter_errors(tomllib.loads(path.read_text()))]
        if bool(errors) == valid:
            failed += 1
            print(f"{path.relative_to(ROOT)}: {errors or 'no mistake found'}")
    print(f"{len(rows) - failed} of {len(rows)} files as expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
