"""Who may read and write a store in CouchDB: logins, security objects, and a validation of every write.

A member of a CouchDB database may read it and write to it. So there are two roles among the members, and a design
document whose function CouchDB asks before every write: it lets in writers and administrators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vogeler.errors import StoreError
from vogeler.persistence import Document
from vogeler.persistence._couch_http import Couch, Refusal

WRITER = "vogeler"
READER = "vogeler-reader"
_NOT_FOUND = 404
# CouchDB's "unauthorized", not its "forbidden": that is about the login, and the document may be a good one.
VALIDATION: Document = {
    "_id": "_design/access",
    "language": "javascript",
    "validate_doc_update": f"""
function (doc, stored, user, security) {{
  var admins = security && security.admins || {{}};
  var roles = ['_admin', '{WRITER}'].concat(admins.roles || []);
  var named = (admins.names || []).indexOf(user.name) >= 0;
  if (!named && !roles.some(function (role) {{ return user.roles.indexOf(role) >= 0; }})) {{
    throw({{unauthorized: 'only logins with the role {WRITER} may write here'}});
  }}
}}""".strip(),
}


class Access:
    """The rights to some databases. ``load`` writes a design document, and says whether it had to."""

    def __init__(self, couch: Couch, databases: tuple[str, ...], load: Callable[[str, Document], bool]) -> None:
        self._couch = couch
        self._databases = databases
        self._load = load

    def protect(self) -> list[str]:
        """Let in the two roles, and of these the writers alone to write; what was done, a line each.

        Who else was let in stays: by name or role, to read; to write only as an administrator of the database.
        """
        done = []
        for database in self._databases:
            if self._load(database, VALIDATION):
                done.append(f"only the role {WRITER} may write to {database} now")
            if self._admit(database):
                done.append(f"only its members may read {database} now, {WRITER} and {READER} among them")
        return done

    def _admit(self, database: str) -> bool:
        there: dict[str, Any] = self._couch.call("get", database, "_security")
        members = there.get("members") or {}
        roles = [*members.get("roles", [])]
        wanted = [*roles, *(role for role in (WRITER, READER) if role not in roles)]
        if wanted == roles:
            return False
        self._couch.call("put", database, "_security", body={**there, "members": {**members, "roles": wanted}})
        return True

    def has_user(self, name: str) -> bool:
        """Whether there is a login of that name."""
        return self._user(name) is not None

    def make_user(self, name: str, password: str, role: str) -> None:
        """Make a login with one role."""
        document = {"_id": _id(name), "name": name, "password": password, "roles": [role], "type": "user"}
        try:
            self._couch.call("put", "_users", _id(name), body=document)
        except Refusal as error:
            if error.status != _NOT_FOUND:
                raise
            raise StoreError(
                f"CouchDB has no database _users to keep the login {name} in", "set it up as its documentation says"
            ) from None

    def delete_user(self, name: str) -> bool:
        """False when there was none."""
        there = self._user(name)
        if there is not None:
            self._couch.call("delete", "_users", _id(name), options={"rev": there["_rev"]})
        return there is not None

    def _user(self, name: str) -> Document | None:
        try:
            found: Document = self._couch.call("get", "_users", _id(name))
        except Refusal as error:
            if error.status != _NOT_FOUND:
                raise
            return None
        return found


def _id(name: str) -> str:
    return f"org.couchdb.user:{name}"
