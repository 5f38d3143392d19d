import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        ("os.fork()", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("subprocess.run(['/bin/true'])", "PermissionError"),
        ("socket.socket()", "PermissionError"),
        ("bytearray(256 << 20)", "MemoryError"),
        ("open('/tmp/file of the sandbox', 'w').write('x' * 10000)", "OSError"),
        ("threading.Thread(target=print).start()", "done"),  # libde265 needs one
        ("bytearray(16 << 20)", "done"),
    ],
)
def test_a_restricted_process_can_decode_and_do_little_else(attempt: str, outcome: str) -> None:
    code = f"""
import os, socket, subprocess, sys, threading
from cifar_lit.inference.sandbox import restrict
answers = os.dup(1)
restrict(64 << 20)
try:
    {attempt}
    answer = "done"
except Exception as error:
    answer = type(error).__name__
os.write(answers, answer.encode())
os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == outcome
