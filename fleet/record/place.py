"""Where a record is: a file, or a database on a PostgreSQL server. Values only; knows no driver, shows no password."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from fleet.record.errors import PlaceMalformed

SERVER = ("postgresql://", "postgres://")
_PASSWORD = re.compile(r"(://[^/?#@:]*):[^/?#@]*@")
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:password|sslpassword|passfile)=)[^&#]*")


def on_server(place: Path | str) -> bool:
    """Whether *place* names a database on a server rather than a file."""
    return str(place).startswith(SERVER)


def masked(place: Path | str) -> str:
    """Return *place* as it may be shown: without the password."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", str(place)))


def has_password(place: Path | str) -> bool:
    """Whether *place* carries a password, which everybody on the machine reads when it is an argument."""
    return masked(place) != str(place)


def file_of(place: Path | str) -> Path:
    """Return the file that *place* names, or raise PlaceMalformed."""
    text = str(place)
    if text.startswith("sqlite:///"):
        return Path(text.removeprefix("sqlite:///"))
    if "://" in text:
        raise PlaceMalformed(f"{text.partition('://')[0]}:// is no kind of record")
    return Path(text)


def checked(url: str) -> str:
    """Return *url* when its parts are where they seem to be, so that no error of the driver shows half a password."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0]
    if authority.count("@") > 1 or any(not c.isprintable() or c.isspace() for c in unquote(url)):
        raise PlaceMalformed("the address of the database is ambiguous")
    return url
