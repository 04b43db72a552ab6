"""Fuzz one of the checks with atheris: fuzz.py CHECK [libFuzzer's options and corpus directories]."""

import importlib
import logging
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

with atheris.instrument_imports(include=["senderscore_policy", "dns.message", "dns.wire", "dns.resolver"]):
    target = importlib.import_module(sys.argv[1])

for module, name, value in target.SMALLER:
    setattr(module, name, value)
logging.disable()
atheris.Setup(sys.argv[:1] + sys.argv[2:], target.check)
atheris.Fuzz()
