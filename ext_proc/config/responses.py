"""Which connections have their responses looked into before the client gets any of them, and where that cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.config.models import Config
from ext_proc.config.policies import Policy
from ext_proc.config.positions import YamlPath

RESPONSE_EFFECTS = frozenset({"flag", "mask", "withhold"})
"""Effects of policies that look at the response."""


def inspected(config: Config) -> frozenset[str]:
    """The connections whose responses Envoy must hand over whole: a policy with a response effect can match their
    requests, or clients get what is masked. Envoy's routes and the workers both follow this."""
    if config.masking.response == "client":
        return frozenset(config.connections)
    rules = [policy for policy in config.policies if policy.effect in RESPONSE_EFFECTS]
    return frozenset(name for name in config.connections if any(_can_match(rule, name) for rule in rules))


def streamed(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """(path, what) of each thing that needs the whole response of a connection with `body: stream`."""
    streaming = [name for name, connection in config.connections.items() if connection.body == "stream"]
    if not streaming:
        return
    if config.masking.response == "client":
        yield ("masking", "response"), f"`client` needs the whole response, and connection {streaming[0]} streams it"
    for n, policy in enumerate(config.policies):
        met = [name for name in streaming if _can_match(policy, name)]
        if policy.effect in RESPONSE_EFFECTS and met:
            yield (
                ("policies", n, "effect"),
                f"`{policy.effect}` needs the whole response, and connection {met[0]} streams it",
            )


def _can_match(policy: Policy, connection: str) -> bool:
    return policy.match.connection in (None, connection)
