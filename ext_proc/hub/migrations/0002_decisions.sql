-- What decided beside grants: which policies matched, in which version, on which values; who approved; and what became
-- of the response. record_version 2 covers these columns too, after `masked`.
ALTER TABLE {database}.exchanges {on_cluster} ADD COLUMN IF NOT EXISTS
    approved_by Array(String) COMMENT 'who said yes to a held request: oidc:NAME, or local:UID on a laptop' AFTER masked;

ALTER TABLE {database}.exchanges {on_cluster} ADD COLUMN IF NOT EXISTS
    rules Array(Tuple(policy LowCardinality(String), digest String, effect LowCardinality(String), mode LowCardinality(String), `values` String)) COMMENT 'policies that matched, enforced or observed: digest is the version, values (JSON, masked) made it match' AFTER approved_by;

ALTER TABLE {database}.exchanges {on_cluster} ADD COLUMN IF NOT EXISTS
    response_decision LowCardinality(String) COMMENT 'what policies said of the answer: pass, mask or withhold; empty where none looked' AFTER rules;
