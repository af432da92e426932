CREATE TABLE IF NOT EXISTS `douane`.exchanges
(
    record_version UInt8 COMMENT 'which columns record_hash covers, and in which order',
    exchange_id UUID COMMENT 'also in the answer to a refused client and in the access log of Envoy',
    ts DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)) COMMENT 'when the request arrived, by the clock of the gate',
    chain_id LowCardinality(String) COMMENT 'HUB/WRITER/GATE: the hash chain that this row is in',
    seq UInt64 CODEC(Delta(8), ZSTD(1)) COMMENT 'the number of this row in its chain: 1, 2, 3 without a gap',
    tenant LowCardinality(String),
    writer LowCardinality(String) COMMENT 'who sent the record, as the hub authenticated it',
    gate LowCardinality(String) COMMENT 'the name that the gate gives itself',
    connection LowCardinality(String),
    operation LowCardinality(String),
    session_id UUID COMMENT 'one pipeline run, the same on every gate; zero without an identity',
    session_label String CODEC(ZSTD(1)) COMMENT 'what people call the run',
    issuer LowCardinality(String) COMMENT 'the name of the issuer in douane.yaml',
    subject LowCardinality(String),
    claims String CODEC(ZSTD(3)) COMMENT 'the verified claims of the caller, JSON',
    workload_issuer LowCardinality(String),
    workload_subject LowCardinality(String),
    workload_claims String CODEC(ZSTD(3)),
    source_address String CODEC(ZSTD(1)),
    protocol LowCardinality(String),
    method LowCardinality(String),
    scheme LowCardinality(String),
    host LowCardinality(String),
    path String CODEC(ZSTD(1)),
    query String CODEC(ZSTD(1)),
    decision LowCardinality(String) COMMENT 'allow, deny or hold',
    reason LowCardinality(String) COMMENT 'why it was refused, or why it ended early: a stable code',
    message String CODEC(ZSTD(1)) COMMENT 'what the client was told',
    policy LowCardinality(String) COMMENT 'the grant or policy that decided',
    approval_id String CODEC(ZSTD(1)),
    credential LowCardinality(String) COMMENT 'names of the credentials that were attached, never values',
    status UInt16 COMMENT 'the HTTP status of the answer; 0 if there was none',
    outcome LowCardinality(String) COMMENT 'complete, denied, client_gone, upstream_reset, timed_out or unknown',
    duration_us UInt64 CODEC(ZSTD(1)),
    code_details LowCardinality(String) COMMENT 'response_code_details of Envoy',
    upstream_address LowCardinality(String),
    config_digest LowCardinality(String) COMMENT 'the configuration that decided: configs.digest',
    req_headers Array(Tuple(name LowCardinality(String), value String)) CODEC(ZSTD(1)),
    req_trailers Array(Tuple(name LowCardinality(String), value String)) CODEC(ZSTD(1)),
    req_body_size UInt64 CODEC(ZSTD(1)) COMMENT 'bytes stored',
    req_body_sha256 FixedString(32) COMMENT 'of the stored bytes',
    req_form Enum8('as_sent' = 0, 'decoded' = 1, 'sealed' = 2) COMMENT 'decoded: a secret was masked inside a content-coding',
    resp_headers Array(Tuple(name LowCardinality(String), value String)) CODEC(ZSTD(1)),
    resp_trailers Array(Tuple(name LowCardinality(String), value String)) CODEC(ZSTD(1)),
    resp_body_size UInt64 CODEC(ZSTD(1)) COMMENT 'bytes stored',
    resp_body_sha256 FixedString(32) COMMENT 'of the stored bytes',
    resp_form Enum8('as_sent' = 0, 'decoded' = 1, 'sealed' = 2) COMMENT 'decoded: a secret was masked inside a content-coding',
    masked Array(Tuple(place LowCardinality(String), `index` UInt32, start UInt64, length UInt64,
        original_length UInt64, detector LowCardinality(String), fingerprint String)) CODEC(ZSTD(1))
        COMMENT 'what was masked: index is that of the header, start and length count stored bytes',
    req_body String CODEC(ZSTD(3)) COMMENT 'empty where it is above 1 MiB: then in body_parts',
    resp_body String CODEC(ZSTD(3)) COMMENT 'empty where it is above 1 MiB: then in body_parts',
    req_text String CODEC(ZSTD(3)) COMMENT 'decoded text of a compressed body, for search; its first MiB',
    resp_text String CODEC(ZSTD(3)) COMMENT 'decoded text of a compressed body, for search; its first MiB',
    record_hash FixedString(32) CODEC(NONE) COMMENT 'SHA-256 over the previous row of the chain and this one',
    INDEX i_exchange exchange_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX i_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX i_path path TYPE text(tokenizer = splitByNonAlpha, preprocessor = lower(path)),
    INDEX i_req_body req_body TYPE text(tokenizer = splitByNonAlpha, preprocessor = if(position(req_body, char(0), 6) > 0, '', lower(req_body))),
    INDEX i_resp_body resp_body TYPE text(tokenizer = splitByNonAlpha, preprocessor = if(position(resp_body, char(0), 6) > 0, '', lower(resp_body))),
    INDEX i_req_text req_text TYPE text(tokenizer = splitByNonAlpha, preprocessor = if(position(req_text, char(0), 6) > 0, '', lower(req_text))),
    INDEX i_resp_text resp_text TYPE text(tokenizer = splitByNonAlpha, preprocessor = if(position(resp_text, char(0), 6) > 0, '', lower(resp_text))),
    PROJECTION p_chain (SELECT _part_offset ORDER BY chain_id, seq),
    CONSTRAINT c_req_body CHECK req_body = '' OR SHA256(req_body) = req_body_sha256,
    CONSTRAINT c_resp_body CHECK resp_body = '' OR SHA256(resp_body) = resp_body_sha256
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (tenant, subject, host, path, ts, exchange_id)
TTL toDateTime(ts) + INTERVAL 400 DAY DELETE
SETTINGS index_granularity_bytes = 1048576, ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1,
    non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS `douane`.body_parts
(
    exchange_id UUID,
    chain_id LowCardinality(String) COMMENT 'with exchange_id: the row of exchanges',
    ts DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)) COMMENT 'exchanges.ts',
    direction Enum8('request' = 0, 'response' = 1),
    n UInt32 COMMENT '0, 1, 2 ...',
    data String CODEC(ZSTD(3)),
    INDEX i_data data TYPE text(tokenizer = splitByNonAlpha, preprocessor = if(position(data, char(0), 6) > 0, '', lower(data)))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (exchange_id, direction, n)
TTL toDateTime(ts) + INTERVAL 400 DAY DELETE
SETTINGS index_granularity_bytes = 1048576, ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1,
    non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS `douane`.configs
(
    ts DateTime64(6, 'UTC') COMMENT 'when the gate first loaded it',
    writer LowCardinality(String) COMMENT 'who sent it, as the hub authenticated it',
    gate LowCardinality(String),
    digest String COMMENT 'exchanges.config_digest',
    origin String COMMENT 'the file it was read from',
    text String CODEC(ZSTD(3))
)
ENGINE = MergeTree
ORDER BY (digest, writer, gate)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE VIEW IF NOT EXISTS `douane`.sessions AS
SELECT
    session_id,
    any(session_label) AS label,
    any(if(e.issuer = '', workload_issuer, e.issuer)) AS issuer,
    any(if(e.subject = '', workload_subject, e.subject)) AS subject,
    min(ts) AS first_ts,
    max(ts) AS last_ts,
    count() AS exchanges,
    countIf(decision = 'deny') AS denied,
    countIf(decision = 'allow' AND method NOT IN ('GET', 'HEAD', 'OPTIONS')) AS writes,
    arraySort(groupUniqArray(connection)) AS connections
FROM `douane`.exchanges AS e
WHERE session_id != toUUID('00000000-0000-0000-0000-000000000000')
GROUP BY session_id;

ALTER TABLE `douane`.exchanges ADD COLUMN IF NOT EXISTS
    approved_by Array(String) COMMENT 'who said yes to a held request: oidc:NAME, or local:UID on a laptop' AFTER masked;

ALTER TABLE `douane`.exchanges ADD COLUMN IF NOT EXISTS
    rules Array(Tuple(policy LowCardinality(String), digest String, effect LowCardinality(String), mode LowCardinality(String), `values` String)) COMMENT 'policies that matched, enforced or observed: digest is the version, values (JSON, masked) made it match' AFTER approved_by;

ALTER TABLE `douane`.exchanges ADD COLUMN IF NOT EXISTS
    response_decision LowCardinality(String) COMMENT 'what policies said of the answer: pass, mask or withhold; empty where none looked' AFTER rules;

CREATE TABLE IF NOT EXISTS `douane`.approvals
(
    ts DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)) COMMENT 'when it happened, by the clock of the hub',
    approval_id String CODEC(ZSTD(1)) COMMENT 'also exchanges.approval_id',
    registry LowCardinality(String) COMMENT 'which registry of a hub decided: number counts within it',
    number UInt64 CODEC(Delta(8), ZSTD(1)) COMMENT 'in the order in which things happened',
    event LowCardinality(String) COMMENT 'requested, approved (the yes of one approver), denied, expired, used or withdrawn',
    state LowCardinality(String) COMMENT 'what the approval was after it',
    approver LowCardinality(String) COMMENT 'oidc:NAME, or local:UID on a laptop; empty where nobody decided',
    approver_issuer LowCardinality(String) COMMENT 'the provider of the approver, or local',
    approver_subject String CODEC(ZSTD(1)),
    comment String CODEC(ZSTD(1)) COMMENT 'what the approver said',
    exchange_id UUID COMMENT 'requested: which first asked; used: which passed',
    gate LowCardinality(String),
    writer LowCardinality(String) COMMENT 'who asked, as the hub authenticated it',
    connection LowCardinality(String),
    operation LowCardinality(String),
    method LowCardinality(String),
    path String CODEC(ZSTD(1)),
    issuer LowCardinality(String) COMMENT 'of the caller: the name in douane.yaml',
    subject LowCardinality(String),
    acts_for LowCardinality(String) COMMENT 'the person the caller acts for, who may not approve',
    session_id UUID,
    session_label String CODEC(ZSTD(1)),
    policies Array(LowCardinality(String)) COMMENT 'the rules that hold it',
    requirements String CODEC(ZSTD(1)) COMMENT 'who must approve: JSON [[policy, [approver, ...], quorum], ...]',
    message String CODEC(ZSTD(1)) COMMENT 'what the rules say',
    digest FixedString(32) COMMENT 'of everything in the request that reaches the upstream'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (approval_id, number)
TTL toDateTime(ts) + INTERVAL 400 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

