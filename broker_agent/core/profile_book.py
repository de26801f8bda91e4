"""The profiles of a host: which are in use, and why others are not."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from broker_agent.core.profiles import Checked, UsableProfile, shown
from schemas import codec, limits
from schemas.faults import Refused
from schemas.messages.liveness import Profiles, ProfileStatus
from schemas.near import near_names
from schemas.texts import cut_text

DIGEST_BYTES: Final = 8
PROBLEM_LEN: Final = 300
# Bytes of the message with all profiles, below the limit of a message.
MESSAGE_BYTES: Final = limits.PAYLOAD_BYTES - 4096


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file that was read. problem: why it cannot be used, with its path and line; or empty."""

    name: str
    path: str
    problem: str = ""
    kind: str = ""
    profile: UsableProfile | None = None
    checked: Checked | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One name. profile: in use; None: unusable. problem: of its file, which is not in use."""

    name: str
    path: str = ""
    kind: str = ""
    problem: str = ""
    profile: UsableProfile | None = None
    checked: Checked | None = None

    @property
    def status(self) -> ProfileStatus:
        profile, checked = self.profile, self.checked
        problem = cut_text(shown(self.problem), PROBLEM_LEN)
        if profile is None or checked is None:
            kind = shown(self.kind)[: limits.LABEL_LEN]
            return ProfileStatus(name=self.name, kind=kind, state="problem", problem=problem)
        return ProfileStatus(
            name=self.name,
            kind=profile.kind,
            hash=profile.hash,
            shape=checked.shape,
            actions=list(checked.actions),
            problem=problem,
        )


class ProfileBook:
    """All names; immutable. `merge` makes the next from what was read."""

    def __init__(self, standings: Sequence[Standing] = ()) -> None:
        self._of = {each.name: each for each in sorted(standings, key=lambda each: each.name)}
        self.statuses = [each.status for each in self._of.values()]
        self.digest = _digest(self.statuses)

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._of.values())

    def find(self, name: str) -> UsableProfile:
        """Return a profile in use. Raises Refused: `profile_unknown` or `profile_problem`."""
        standing = self._of.get(name)
        if standing is None:
            near = near_names(name, [*self._of])
            raise Refused("profile_unknown", f"this host has no profile {name[:64]!a}{near}")
        if standing.profile is None:
            raise Refused("profile_problem", standing.problem)
        return standing.profile

    def merge(self, found: Sequence[Found]) -> "ProfileBook":
        """Return the book after a look at all files."""
        times = Counter(each.name for each in found)
        first = {each.name: each for each in reversed(found)}
        names = sorted(first)[: limits.PROFILES]
        standings = [self._next(first[name], found, is_double=times[name] > 1) for name in names]
        return ProfileBook(standings)

    def _next(self, each: Found, found: Sequence[Found], *, is_double: bool) -> Standing:
        problem = each.problem
        if is_double:
            paths = " and ".join(other.path for other in found if other.name == each.name)
            problem = f"{each.name} is in two files: {paths}"
        if not problem:
            return Standing(
                name=each.name,
                path=each.path,
                kind=each.kind,
                profile=each.profile,
                checked=each.checked,
            )
        before = self._of.get(each.name)
        if before is not None and before.profile is not None:
            return replace(before, problem=problem)
        return Standing(name=each.name, path=each.path, kind=each.kind, problem=problem)


def _digest(statuses: Sequence[ProfileStatus]) -> str:
    """Digest of what the master is told; empty without profiles."""
    if not statuses:
        return ""
    return hashlib.blake2b(msgspec.json.encode(statuses), digest_size=DIGEST_BYTES).hexdigest()


def message(book: ProfileBook, incarnation: str) -> bytes:
    """Encode the message to the master; if it is too large, shapes and problems are left out."""
    for shape, problem in ((limits.SHAPE_LEN, PROBLEM_LEN), (100, 100), (0, 40)):
        items = [
            msgspec.structs.replace(each, shape=each.shape[:shape], problem=each.problem[:problem])
            for each in book.statuses
        ]
        data = codec.encode(Profiles(incarnation=incarnation, digest=book.digest, items=items))
        if len(data) <= MESSAGE_BYTES:
            return data
    raise Refused("request_too_large", "the profiles of this host do not fit into one message")


def told_by_name(book: ProfileBook) -> Mapping[str, ProfileStatus]:
    return {each.name: each for each in book.statuses}
