-- What happened to each approval: the history of the hub's registry, which alone decides. Nothing reads an approval
-- from here to let a request pass.
CREATE TABLE IF NOT EXISTS {database}.approvals {on_cluster}
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
ENGINE = {replicated}MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (approval_id, number)
TTL toDateTime(ts) + INTERVAL {retention} DAY DELETE
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1, {deduplication};
