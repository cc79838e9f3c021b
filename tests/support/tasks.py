"""Hand messages to the client's Flower app as a SuperNode would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client_side.app import app
from client_side.folder import FOLDER_KEY


def send(
    folder: Path | None,
    message_type: str,
    content: RecordDict,
    *,
    node_config: Mapping[str, str | int] | None = None,
    **run_config: str,
) -> Message:
    """Send a message to the client of a folder.

    Args:
        folder: The client's folder, as its node is configured; None where it names none.
        message_type: Such as `query.hello`.
        content: What the message holds.
        node_config: What else the client's operator has configured.
        **run_config: What the server's side has put into the run's configuration.

    Returns:
        The reply.
    """
    context = Context(
        run_id=1,
        node_id=1,
        node_config={
            **({} if folder is None else {FOLDER_KEY: str(folder)}),
            **(node_config or {}),
        },
        state=RecordDict(),
        run_config=dict(run_config),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Who is asking, as Flower says it at the start of a task's process.
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        message = Message(content=content, message_type=message_type, dst_node_id=1)
        return app(message=message, context=context)
