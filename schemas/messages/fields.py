"""Field types with their limits, shared by all messages."""

from typing import Annotated

from msgspec import Meta

from schemas import limits

# `$` alone also matches before a line break at the end, which would then enter a subject.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
CommandId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
# Made by master or agent; becomes a part of reply subjects.
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Text = Annotated[str, Meta(max_length=limits.TEXT_LEN)]
Label = Annotated[str, Meta(max_length=limits.LABEL_LEN)]
Labels = Annotated[dict[Label, Label], Meta(max_length=limits.LABELS)]
# What agents have and commands ask for; plain enough for `tag:site=berlin` in a filter.
_TagName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$(?!\n)")]
_TagValue = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_./:-]{0,63}$(?!\n)")]
Tags = Annotated[dict[_TagName, _TagValue], Meta(max_length=limits.TAGS)]
# The greater goes first.
Priority = Annotated[int, Meta(ge=0, le=4)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
AttemptNumber = Annotated[int, Meta(ge=0, le=999_999_999)]
# Unix seconds, UTC: for people and history only, never for a deadline.
Timestamp = Annotated[float, Meta(ge=0, le=1e11)]
Duration = Annotated[float, Meta(ge=0, le=1e10)]
