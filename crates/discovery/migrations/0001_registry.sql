-- Nodes that registered. Times are milliseconds since the Unix epoch, set by the discovery servers, so that several servers
-- and the database need only agree within the servers' clock skew.
CREATE TABLE nodes (
    peer_id             text   PRIMARY KEY,
    organization        text   NOT NULL,
    name                text   NOT NULL,
    region              text,
    addresses           text[] NOT NULL,
    bulk_addresses      text[] NOT NULL,
    roles               text[] NOT NULL,
    capabilities        text[] NOT NULL,
    record              bytea,
    record_sequence     bigint NOT NULL,
    certificate_ends_at bigint NOT NULL,
    registered_at       bigint NOT NULL,
    last_seen_at        bigint NOT NULL,
    expires_at          bigint NOT NULL,
    last_stamp          bigint NOT NULL
);

-- Pages of one organisation in the order of the peer id, whatever the database's collation.
CREATE INDEX nodes_by_organization ON nodes (organization, peer_id COLLATE "C");
CREATE INDEX nodes_by_last_seen ON nodes (organization, last_seen_at DESC);
CREATE INDEX nodes_by_expiry ON nodes (expires_at);

-- One-time join tokens: a hash of the secret, what is granted, and what was issued for it.
CREATE TABLE join_grants (
    token_hash   bytea  PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    grant_id     text   NOT NULL,
    grant_json   text   NOT NULL,
    created_at   bigint NOT NULL,
    expires_at   bigint NOT NULL,
    redeemed_at  bigint,
    request_hash bytea,
    peer_id      text,
    leaf_pem     text,
    CHECK ((redeemed_at IS NULL) = (request_hash IS NULL)
       AND (redeemed_at IS NULL) = (peer_id IS NULL)
       AND (redeemed_at IS NULL) = (leaf_pem IS NULL))
);

CREATE INDEX join_grants_by_id ON join_grants (grant_id);
CREATE INDEX join_grants_by_expiry ON join_grants (expires_at);
