"""A session of Ray: quiet, on this machine unless told otherwise, and gone afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ENVIRONMENT = {
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",  # shared weights are mapped, not copied
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of the user stay what they are
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study's records are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search at once; what is told is kept
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing of its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray when it is imported, in the driver and in every worker; a value that the user has set stands."""

LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For a session on this machine alone: Ray's servers then listen on 127.0.0.1, as they always do on those systems;
elsewhere Ray takes 127.0.0.1 for a mistake and listens on every address."""


@contextmanager
def ray_session(address: str | None, workers: int) -> Iterator[None]:
    """Ray, started here with room for so many workers, or joined at `address`; one that runs already is used as it is.

    Args:
        address: of a cluster; None starts Ray on this machine, on 127.0.0.1.
        workers: that must find room.
    """
    for name, value in (ENVIRONMENT if address is not None else {**ENVIRONMENT, **LOCAL}).items():
        os.environ.setdefault(name, value)
    if address is not None and (os.environ.get("RAY_AUTH_TOKEN") or Path("~/.ray/auth_token").expanduser().is_file()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray itself does so for local sessions only
    import ray

    if ray.is_initialized():
        yield
        return
    start = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if address is None:
        cores = max(os.cpu_count() or 1, workers)
        start(address="local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1")
    else:
        start(address=address, runtime_env={"env_vars": ENVIRONMENT})
    try:
        yield
    finally:
        ray.shutdown()
