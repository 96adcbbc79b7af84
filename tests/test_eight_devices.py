"""The tests of many devices, in a process that has eight; all others keep to one device."""

import os
import subprocess
import sys
from pathlib import Path


def test_all_of_eight_devices():
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    folder = Path(__file__).parent / "eight_devices"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", folder, "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
