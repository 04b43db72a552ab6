"""What every test shares."""

import asyncio
import inspect

import hypothesis
import pytest

import senderscore_policy

# A loaded machine makes an example slow, not wrong.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--installed`: the tests must not run against the source tree (`make test` says so)."""
    parser.addoption("--installed", action="store_true", help="fail unless the package under test is an installed one")


def pytest_report_header() -> str:
    """Which code is tested."""
    return f"senderscore-policy {senderscore_policy.__version__} in {senderscore_policy.__path__[0]}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True
