"""The command as a process."""

import subprocess
import sys


def test_without_a_verb_it_says_how_it_is_used():
    done = subprocess.run([sys.executable, "-m", "quietcore"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: quietcore [OPTIONS] COMMAND" in done.stderr
    assert "Traceback" not in done.stderr
