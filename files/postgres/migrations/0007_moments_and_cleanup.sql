-- Time stamps from before 1970 were taken as they came. Some lie before year 1, which no client library reads:
-- every answer with such a row failed. The scope, because row security hides every client's rows otherwise.
SELECT set_config('memory.scope', 'system', true);

UPDATE memory.memory_entries SET occurred_at = '1970-01-01T00:00:00Z' WHERE occurred_at < '1970-01-01T00:00:00Z';
UPDATE memory.episodes SET occurred_at = '1970-01-01T00:00:00Z' WHERE occurred_at < '1970-01-01T00:00:00Z';
UPDATE memory.memory_facts SET valid_from = '1970-01-01T00:00:00Z' WHERE valid_from < '1970-01-01T00:00:00Z';
UPDATE memory.fact_history
    SET valid_from = greatest(valid_from, '1970-01-01T00:00:00Z'),
        valid_to = greatest(valid_to, CASE WHEN valid_to IS NOT NULL THEN timestamptz '1970-01-01T00:00:00Z' END)
    WHERE valid_from < '1970-01-01T00:00:00Z' OR valid_to < '1970-01-01T00:00:00Z';

-- What a chat was told, by digest. Callers that send a conversation whole send again what was forgotten or has
-- expired meanwhile: the digest stays as long as the chat, so that it is not stored anew.
CREATE TABLE IF NOT EXISTS memory.chat_messages (
    client_id        integer NOT NULL,
    conversation_id  bigint NOT NULL REFERENCES memory.conversations (id) ON DELETE CASCADE,
    position         integer NOT NULL CHECK (position BETWEEN 0 AND 1048575),
    role             text NOT NULL CHECK (role IN ('user', 'assistant', 'system', 'tool')),
    content_hash     bytea NOT NULL,
    message_id       text CHECK (length(message_id) BETWEEN 1 AND 255),
    PRIMARY KEY (conversation_id, position)
);
ALTER TABLE memory.chat_messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.chat_messages FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS one_client ON memory.chat_messages;
CREATE POLICY one_client ON memory.chat_messages
    USING (client_id = (SELECT memory.current_client()) OR (SELECT memory.is_system()))
    WITH CHECK (client_id = (SELECT memory.current_client()) OR (SELECT memory.is_system()));
INSERT INTO memory.chat_messages (client_id, conversation_id, position, role, content_hash)
    SELECT m.client_id, c.id, m.slot & 1048575, m.role, m.content_hash
    FROM memory.memory_entries m JOIN memory.conversations c ON c.id = m.slot >> 20 AND c.client_id = m.client_id
    WHERE m.slot >= 0
    ON CONFLICT DO NOTHING;

SELECT set_config('memory.scope', '', true);

-- The cleanup finds old episodes by their age.
CREATE INDEX IF NOT EXISTS episodes_created_at ON memory.episodes (created_at);
