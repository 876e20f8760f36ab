"""Sources named without what lets somebody in: passwords, tokens and keys."""

import re
from urllib.parse import unquote

_MASK = "***"
# Up to the last @ of a URL: a password with a slash in it is a mistake that must not be shown.
_USER = re.compile(r"(:/+[^/@:\s]*):(?:(?! ! ).)*@")
# Not in a query alone: cameras take rtsp://host/user=admin&password=..., pipelines user-pw=...
_NAME = re.compile(r"([\w.%~$-]+)\s*=\s*")
_VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|[^&#\s]*")
# What the name of a secret has in it: loginpas, X-Amz-Signature, apikey, passphrase, ...
_SECRET = re.compile(
    r"pas|pw|secret|token|auth|sig|key(?!-int|frame)|cred|jwt|session|otp|^(pin|sid|code|hash)$"
)


def without_secrets(text: str) -> str:
    """A URL, a pipeline or a message about one, with its secrets masked.

    These are the password of `user:password@`, and the value of each `name=value` whose name says
    that it is one (password, pwd, token, key, auth, signature, ...). What is masked in doubt is
    rather too much.
    """
    text = _USER.sub(rf"\1:{_MASK}@", text)
    parts, done = [], 0
    for name in _NAME.finditer(text):
        value = _VALUE.match(text, name.end())
        if name.start() < done or value is None or not value[0]:
            continue
        if _SECRET.search(unquote(name[1]).lower()):
            parts += [text[done : name.end()], _MASK]
            done = value.end()
    return "".join([*parts, text[done:]])
