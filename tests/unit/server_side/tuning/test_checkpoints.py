from __future__ import annotations

from pathlib import Path

from server_side.tuning.checkpoints import mark_whole, newest_whole_checkpoint


def test_files_of_subfolders_are_vouched_for_too(tmp_path: Path) -> None:
    """A tokenizer with several templates, which is saved with a checkpoint, has such a folder."""
    checkpoint = tmp_path / "checkpoint-2"
    template = checkpoint / "additional_chat_templates" / "tool_use.jinja"
    template.parent.mkdir(parents=True)
    template.write_text("{{ messages }}", encoding="utf-8")

    mark_whole(checkpoint)

    assert newest_whole_checkpoint(tmp_path) == checkpoint
    template.write_text("", encoding="utf-8")
    assert newest_whole_checkpoint(tmp_path) is None
