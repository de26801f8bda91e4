"""Field types with their limits, shared by all messages."""

from typing import Annotated

from msgspec import Meta

from schemas import ids, limits

Name = Annotated[str, Meta(pattern=ids.NAME_PATTERN)]
CommandId = Annotated[str, Meta(pattern=ids.ID_PATTERN)]
# Made by a master or an agent; part of reply subjects.
Token = Annotated[str, Meta(pattern=ids.ID_PATTERN)]
Text = Annotated[str, Meta(max_length=limits.TEXT_LEN)]
# `tls://HOST:PORT`: names are at most 253 characters long.
Url = Annotated[str, Meta(max_length=limits.URL_LEN)]
Urls = Annotated[list[Url], Meta(max_length=limits.URLS)]
Label = Annotated[str, Meta(max_length=limits.LABEL_LEN)]
Labels = Annotated[dict[Label, Label], Meta(max_length=limits.LABELS)]
# Tags of agents, required by commands; without characters that a filter (`tag:site=berlin`) reads.
_TagName = Annotated[str, Meta(pattern=ids.TAG_NAME_PATTERN)]
_TagValue = Annotated[str, Meta(pattern=ids.TAG_VALUE_PATTERN)]
Tags = Annotated[dict[_TagName, _TagValue], Meta(max_length=limits.TAGS)]
ActionName = Annotated[str, Meta(pattern=ids.ACTION_PATTERN)]
# A command with a greater priority goes first.
Priority = Annotated[int, Meta(ge=0, le=4)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
AttemptNumber = Annotated[int, Meta(ge=0, le=999_999_999)]
# Unix seconds, UTC: for people and history only, never for a deadline.
Timestamp = Annotated[float, Meta(ge=0, le=1e11)]
Duration = Annotated[float, Meta(ge=0, le=1e10)]
