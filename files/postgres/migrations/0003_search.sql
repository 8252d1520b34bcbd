-- The lexical index: which entries of a client use a word, how often, and how long they are.
-- An index-only scan of this table gives everything that BM25 needs, also over a message with its
-- neighbours, because a neighbour is the next slot. The words are Postgres' stemmed English lexemes.
CREATE TABLE memory.memory_terms (
    client_id  integer NOT NULL,
    term       text COLLATE "C" NOT NULL,
    slot       bigint NOT NULL,
    tf         smallint NOT NULL,
    len        smallint NOT NULL,
    PRIMARY KEY (client_id, term, slot) INCLUDE (tf, len)
);
ALTER TABLE memory.memory_terms
    SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- The lexemes of a text: term, count (at most 255), and the number of all of them (at most 32767).
-- A lexeme longer than 64 bytes is a hash or a blob that nobody asks for.
CREATE FUNCTION memory.lexemes(content text)
RETURNS TABLE (term text, tf smallint, len smallint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT lexeme COLLATE "C",
           least(cardinality(positions), 255)::smallint,
           least(sum(cardinality(positions)) OVER (), 32767)::smallint
    FROM unnest(to_tsvector('pg_catalog.english', left(content, 65536)))
    WHERE octet_length(lexeme) <= 64
$$;

-- An entry is also found by its date: "what did I say in May 2023?". The day, month and year of when it was
-- said become words of it, like those of its content.
CREATE FUNCTION memory.entry_lexemes(content text, occurred_at timestamptz)
RETURNS TABLE (term text, tf smallint, len smallint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT l.term, l.tf, l.len
    FROM memory.lexemes(content || ' ' || to_char(occurred_at AT TIME ZONE 'UTC', 'FMDD FMMonth YYYY')) l
$$;

-- What the indexes must follow: the words at once, the vectors through the outbox.
CREATE TABLE memory.vector_outbox (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id        integer NOT NULL,
    memory_id        uuid NOT NULL,
    enqueued_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    attempts         integer NOT NULL DEFAULT 0,
    last_error       text
);
CREATE INDEX vector_outbox_due ON memory.vector_outbox (next_attempt_at, id);
CREATE INDEX vector_outbox_client ON memory.vector_outbox (client_id);

CREATE FUNCTION memory.entries_inserted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO memory.memory_terms (client_id, term, slot, tf, len)
        SELECT n.client_id, l.term, n.slot, l.tf, l.len
        FROM new_rows n, memory.entry_lexemes(n.content, n.occurred_at) l;
    INSERT INTO memory.vector_outbox (client_id, memory_id)
        SELECT client_id, id FROM new_rows WHERE embedding IS NOT NULL;
    RETURN NULL;
END $$;

CREATE FUNCTION memory.entries_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM memory.memory_terms t
        USING old_rows o, memory.entry_lexemes(o.content, o.occurred_at) l
        WHERE t.client_id = o.client_id AND t.term = l.term AND t.slot = o.slot;
    INSERT INTO memory.vector_outbox (client_id, memory_id)
        SELECT client_id, id FROM old_rows WHERE embedding IS NOT NULL;
    RETURN NULL;
END $$;

CREATE FUNCTION memory.entries_updated() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM old_rows o JOIN new_rows n USING (id)
               WHERE o.content <> n.content OR o.slot <> n.slot OR o.client_id <> n.client_id
                  OR o.occurred_at <> n.occurred_at) THEN
        DELETE FROM memory.memory_terms t
            USING old_rows o, memory.entry_lexemes(o.content, o.occurred_at) l
            WHERE t.client_id = o.client_id AND t.term = l.term AND t.slot = o.slot;
        INSERT INTO memory.memory_terms (client_id, term, slot, tf, len)
            SELECT n.client_id, l.term, n.slot, l.tf, l.len
            FROM new_rows n, memory.entry_lexemes(n.content, n.occurred_at) l;
    END IF;
    INSERT INTO memory.vector_outbox (client_id, memory_id)
        SELECT n.client_id, n.id
        FROM new_rows n JOIN old_rows o USING (id)
        WHERE (n.embedding IS NOT NULL OR o.embedding IS NOT NULL)
          AND (n.embedding_model IS DISTINCT FROM o.embedding_model
               OR (n.embedding IS NULL) <> (o.embedding IS NULL)
               OR n.content <> o.content
               OR n.source_type <> o.source_type
               OR n.expires_at IS DISTINCT FROM o.expires_at
               OR n.client_id <> o.client_id);
    RETURN NULL;
END $$;

CREATE TRIGGER follow_insert AFTER INSERT ON memory.memory_entries
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION memory.entries_inserted();
CREATE TRIGGER follow_delete AFTER DELETE ON memory.memory_entries
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION memory.entries_deleted();
CREATE TRIGGER follow_update AFTER UPDATE ON memory.memory_entries
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION memory.entries_updated();

-- Which embedding model and which Qdrant collection are in force.
CREATE TABLE memory.index_state (
    key         text PRIMARY KEY,
    value       text NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
