-- An entry is also found by its date: "what did I say in May 2023?". The day, month and year of when it was
-- said become words of it, like those of its content.
CREATE FUNCTION memory.entry_lexemes(content text, occurred_at timestamptz)
RETURNS TABLE (term text, tf smallint, len smallint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT l.term, l.tf, l.len
    FROM memory.lexemes(content || ' ' || to_char(occurred_at AT TIME ZONE 'UTC', 'FMDD FMMonth YYYY')) l
$$;

CREATE OR REPLACE FUNCTION memory.entries_inserted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO memory.memory_terms (client_id, term, slot, tf, len)
        SELECT n.client_id, l.term, n.slot, l.tf, l.len
        FROM new_rows n, memory.entry_lexemes(n.content, n.occurred_at) l;
    INSERT INTO memory.vector_outbox (client_id, memory_id)
        SELECT client_id, id FROM new_rows WHERE embedding IS NOT NULL;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION memory.entries_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM memory.memory_terms t
        USING old_rows o, memory.entry_lexemes(o.content, o.occurred_at) l
        WHERE t.client_id = o.client_id AND t.term = l.term AND t.slot = o.slot;
    INSERT INTO memory.vector_outbox (client_id, memory_id)
        SELECT client_id, id FROM old_rows WHERE embedding IS NOT NULL;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION memory.entries_updated() RETURNS trigger
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
