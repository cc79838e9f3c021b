"""Processes for tests that kill one, without the libraries' imports in each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

_LIBRARIES = ["client_side.app", "client_side.generator", "peft", "server_side.pipeline", "trl"]


def exit_status(target: Callable[..., object], *arguments: Any, seconds: float = 240.0) -> int:
    """Call a function in a process of its own, and return that process's exit status.

    It is forked from a process that imported the libraries and has done nothing else, no test and
    nothing of this process included: imports would be most of such a life.

    Args:
        target: A function of a module.
        arguments: What it is called with; they are pickled.
        seconds: How long it may take.

    Returns:
        The status, negative where a signal ended it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    process = context.Process(target=_on_one_thread, args=(target, arguments))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{target.__name__} was still at work after {seconds} s")
    return process.exitcode


def _on_one_thread(target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    target(*arguments)
