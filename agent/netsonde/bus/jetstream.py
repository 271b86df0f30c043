"""Subjects of the JetStream API, in the server's own domain or in a named one.

A leaf node with JetStream has a domain. A client of the leaf reaches the hub's JetStream only by
the subjects of the hub's domain. A PubAck has the domain of the server that stored the message.
"""

from __future__ import annotations


def api(domain: str, verb: str) -> str:
    """Returns `$JS.API.VERB`, or `$JS.DOMAIN.API.VERB`."""
    return f"$JS.{domain}.API.{verb}" if domain else f"$JS.API.{verb}"


def key_subject(domain: str, bucket: str, key: str) -> str:
    """Returns the subject to write a key to. A leaf node with a domain blocks `$KV.>` to its hub,
    and maps `$JS.DOMAIN.API.$KV.>` to it."""
    subject = f"$KV.{bucket}.{key}"
    return api(domain, subject) if domain else subject


def denies(denied: str, sent: str) -> bool:
    """Returns whether a denial of one subject is about a message to another. The server of a
    domain checks and names the subject without its domain."""
    if denied == sent:
        return True
    domain, _, verb = sent.removeprefix("$JS.").partition(".API.")
    return bool(domain and verb) and denied == (verb if verb.startswith("$KV.") else api("", verb))


def foreign(domain: str, found: str) -> bool:
    """Returns whether a PubAck with the domain `found` is from another domain than `domain`."""
    return bool(domain) and found != domain
