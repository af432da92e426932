"""douane.yaml: its shape (`models`) and its reading (`load`, `parse`)."""

from ext_proc.config.approvals import Approvals
from ext_proc.config.credentials import Credential, CredentialSource, SourceEnv, SourceExec, SourceFile
from ext_proc.config.explain import ConfigErrors
from ext_proc.config.load import Loaded, json_schema, load, parse
from ext_proc.config.models import (
    Config,
    Connection,
    ConnectionIdentity,
    Console,
    Gate,
    Grant,
    Hub,
    Issuer,
    Masking,
    Recording,
    Spool,
    Store,
    Tls,
)
from ext_proc.config.policies import JsonCondition, Policy, RuleMatch

__all__ = [
    "Approvals",
    "Config",
    "ConfigErrors",
    "Connection",
    "ConnectionIdentity",
    "Console",
    "Credential",
    "CredentialSource",
    "Gate",
    "Grant",
    "Hub",
    "Issuer",
    "JsonCondition",
    "Loaded",
    "Masking",
    "Policy",
    "Recording",
    "RuleMatch",
    "SourceEnv",
    "SourceExec",
    "SourceFile",
    "Spool",
    "Store",
    "Tls",
    "json_schema",
    "load",
    "parse",
]
